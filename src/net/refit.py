"""After training, the head fitted again on what the trained body says of the training images, which rests meanwhile.

`balanced`: an L2-penalised logistic regression in which all classes weigh alike, n_c^−1 an image (classifier
re-training, Kang et al. 2020). The softmax then assumes a uniform prior over the trained classes, which travels with
the logits as that of any correction does, and a decision undoes it. A plain sigmoid is an answer by itself: there the
shift from even odds is taken out of the bias, and the natural prevalence travels.

`expected_score`: from the trained head on, the softmax is made the best *answer*. With q = softmax(head(x)) for the
probabilities of answering, the score that they earn on the training images in expectation is linear in q, and is
maximised with an L2 pull towards the trained head. Logit adjustment for a cost matrix (Narasimhan and Menon 2021) puts
the costs into a likelihood, whose optimum still says the posterior; this is the metric itself, whose optimum says only
what to answer, and it is not concave. So q is no posterior, and no prior is the right one for it. Its logits keep that
of training, which is exact as far as the pull holds the head back: rule `bayes` calibrates them on the validation part
like any others, and its tilt runs along that very log π. `argmax` takes q at its word.

The body has seen every training image, so a cross-validation inside the training part would find its features better
than they are and ask for too little penalty. Both penalties are constants instead.
"""

import numpy as np
import torch

from core import priors
from core.config import Config
from core.data_set import Table
from core.errors import UserError
from core.runs import Run, require_whole
from core.task import Task
from images.pack import Pack
from net import checkpoint, features, heads
from net.machine import Machine
from net.model import Net

# Points of score: half of it is what biases cost that move by 1 in the mean square. A choice, not tuned on radiographs;
# the study modelC has a row of it.
PULL = 0.02
STEPS = 300  # of the search, at most


def check(config: Config, task: Task) -> None:
    """Raises UserError for a score that there is none of."""
    if config.refit == "expected_score" and not task.exclusive:
        raise UserError(
            f"refit = expected_score: a {task.name} run has no score of single answers to maximise: use refit=balanced,"
            " or leave refit out"
        )


def file(config: Config) -> str:
    """The checkpoint that a run of this configuration answers by."""
    return "best.pt" if config.refit == "none" else "refit.pt"


def answering(net: Net, config: Config, run: Run, device: torch.device) -> None:
    """Load the checkpoint that a run answers by into its network. Raises UserError for one that is damaged, or not as
    the run wrote it."""
    require_whole(run.folder, run.about, file(config))
    checkpoint.load_into({"model": net}, run / file(config), device)


def refit(net: Net, task: Task, pack: Pack, learn: Table, machine: Machine, run: Run, epoch: int) -> np.ndarray:
    """Give the network of the best epoch its new head and write the run's refit.pt; returns the prior that its logits
    assume, float [C]. Without `refit` nothing is done, and that is the prior of training."""
    config = task.config
    prior = task.prior(learn.targets, config.imbalance)
    if config.refit == "none":
        return prior
    print(f"refit = {config.refit}: the head is fitted again on {len(learn.ids)} training images", flush=True)
    x = features.extract(net, pack, learn.ids, config, machine)
    if config.refit == "balanced":
        weight, bias, prior = balanced(x, learn.targets, task)
    else:
        last = net.head[-1]
        trained = (parameter.detach().cpu().double().numpy() for parameter in (last.weight, last.bias))
        weight, bias = maximised(x, *trained, task.earnings(learn.targets), known=prior > 0)
    heads.put(net, weight, bias)
    checkpoint.save(run / "refit.pt", {"model": net.state_dict(), "epoch": epoch})
    return prior


def balanced(x: np.ndarray, targets: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class-balanced regression on features [V, N, F]: weight [C, F], bias [C] and the prior that its logits assume.

    The penalty is a Gaussian prior under which a logit of standardised features has standard deviation 1, for images
    whose V views count once: C = 1/(V·F). Cross-validation on frozen features of real radiographs chose 0.001 and
    0.0003 where that is 0.0004.
    """
    weight, bias = heads.fit(x, targets, task.exclusive, 1 / (len(x) * x.shape[-1]), balanced=True).linear
    natural = task.prior(targets, {})
    if task.exclusive:
        return weight, bias, priors.prior(targets.sum(axis=0), {"balanced": 1.0})
    return weight, bias + priors.shift(np.full(len(natural), 0.5), natural, exclusive=False), natural


def maximised(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, earnings: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The head with the best penalised expected score, from the trained weight [C, F] and bias [C] on.

    x [V, N, F] are features, earnings [N, C] what each answer to each image adds to the score; an image's answering
    probabilities are the mean over its views. The classes that are not `known`, bool [C], have no images to learn from
    and are never answered: they stay as they are.
    """
    from scipy.optimize import minimize
    from sklearn.preprocessing import StandardScaler

    views, features = len(x), x.shape[-1]
    flat = x.reshape(-1, features)
    logits = (flat @ weight.T + bias)[:, known]
    scaler = StandardScaler().fit(flat)
    rows = np.column_stack([scaler.transform(flat), np.ones(len(flat))])
    worth = np.tile(earnings[:, known], (views, 1)) / views
    # on a weight F times that on a bias: moving a whole class is cheap, fitting single images in many directions is not
    pull = PULL / known.sum() * np.array([*[features] * features, 1.0])
    start = np.zeros(logits.shape[1] * (features + 1))
    found = minimize(loss, start, (rows, logits, worth, pull), "L-BFGS-B", jac=True, options={"maxiter": STEPS})
    change = np.zeros((len(bias), features + 1))
    change[known] = found.x.reshape(-1, features + 1)
    further, offset = heads.unscaled(change[:, :-1], change[:, -1], scaler)
    return weight + further, bias + offset


def loss(
    theta: np.ndarray, rows: np.ndarray, logits: np.ndarray, worth: np.ndarray, pull: np.ndarray
) -> tuple[float, np.ndarray]:
    """Minus the penalised expected score, Σ_ik q_ik·worth_ik − ½·Σ_kf pull_f·Δ_kf², and its gradient in Δ.

    Δ [K, F] is theta [K·F] and q [N, K] = softmax(logits + rows·Δᵀ), with rows [N, F], logits and worth [N, K] and
    pull [F]. The derivative of the first sum by logit k of image i is q_ik·(worth_ik − Σ_j q_ij·worth_ij).
    """
    change = theta.reshape(-1, rows.shape[1])
    q = torch.from_numpy(logits + rows @ change.T).softmax(dim=1).numpy()
    each = (q * worth).sum(axis=1, keepdims=True)
    slope = (q * (worth - each)).T @ rows - pull * change
    return float((pull * change**2).sum() / 2 - each.sum()), -slope.ravel()
