"""The proof of the decision layer: `worlds.py [--seeds N]` runs every rule in worlds whose posterior is known exactly.

A world is a Gaussian feature for every class, x_c ~ N(m_c, 1) in images of class c and N(0, 1) in others, so the
evidence m_c·x_c − m_c²/2 is the class's exact log-likelihood ratio. What a network would say of it is then distorted:
by its sampler, by a wrong scale, by label smoothing, by noise, by a bias of single classes. Rules are fitted on a
validation fold of the competition's size and class counts. Their scores are expectations under the exact posterior, so
no luck of test labels is in them. Not part of the main path; needs no torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from answers import calibrators
from answers.metrics import Costs, nll
from answers.posterior import Posterior, softmax
from answers.rules import RULES, bayes_scores, truth_of
from core.commands import Parser
from core.errors import UserError, command
from core.files import shown, write_json
from core.logits_file import Logits

# The competition's training counts, in column order (the last is No Finding).
COUNTS = np.array(
    [2351, 600, 651, 326, 2156, 172, 389, 37, 5206, 1249, 1527, 608, 160, 1114, 44, 5, 24, 254, 91, 34079]
)
NATURAL = COUNTS / COUNTS.sum()
VALIDATION = np.repeat(np.arange(20), np.round(COUNTS * 0.2).astype(int))  # the true classes of a fold, 10,209 images
RARE = COUNTS < 400
PUBLIC = ("thresholds", "bias", "power")


@dataclass(frozen=True)
class World:
    name: str
    # mean of m_c, the distance between a class and the rest in standard deviations; single classes within ±30 %
    signal: float = 1.4
    sampler: float = 0.0  # exponent: the network learns the prior n^(1 − sampler)
    scale: float = 1.0  # of its logits: above 1 over-confident, below under-confident
    smoothing: float = 0.0  # of its labels
    noise: float = 0.0  # standard deviation of noise on its logits
    rare_noise: float = 0.0  # more of it, on the ten classes with fewer than 400 images
    bias: float = 0.0  # standard deviation over the classes of a constant error of each logit
    views: int = 1  # the noise is drawn anew for each

    def parameters(self) -> str:
        """What differs from a faithful network with the usual signal, as `sampler 0.5, noise 0.7`."""
        usual = World("")
        return (
            ", ".join(
                f"{key.replace('_', ' ')} {value:g}"
                for key, value in vars(self).items()
                if key != "name" and value != getattr(usual, key)
            )
            or "—"
        )


SAMPLERS = (("natural", 0.0), ("√ sampler", 0.5), ("balanced", 1.0))
WORLDS = (
    *(World(name, sampler=e) for name, e in SAMPLERS),
    World("over-confident", scale=1.7),
    World("over-confident, √", scale=1.7, sampler=0.5),
    World("under-confident", scale=0.6),
    World("under-confident, √", scale=0.6, sampler=0.5),
    *(World(f"label-smoothed, {name}", smoothing=0.1, sampler=e) for name, e in SAMPLERS),
    *(World(f"noisy, {name}", noise=0.7, sampler=e) for name, e in SAMPLERS),
    World("noisy, two views", noise=1.0, sampler=0.5, views=2),
    *(World(f"rare noise, {name}", rare_noise=1.0, sampler=e) for name, e in SAMPLERS),
    World("much rare noise", rare_noise=2.0, sampler=1.0),
    World("biased classes", bias=0.5, sampler=0.5),
    World("weak", signal=1.0, sampler=0.5),
    *(World(f"weak {signal:g}", signal=signal, sampler=0.5) for signal in (1.1, 1.2, 1.3)),
    World("weak, rare noise", signal=1.2, rare_noise=1.0, sampler=0.5),
    World("strong", signal=2.2, sampler=0.5),
    World("strong, rare noise", signal=2.2, rare_noise=1.0, sampler=0.5),
)


@dataclass(frozen=True)
class Sample:
    """Rows of a world: what the network says, the exact posterior, the posterior given only what it says, all [N, C]
    (logits [V, N, C]), and the weight [N] that turns the rows into naturally distributed ones."""

    logits: np.ndarray
    exact: np.ndarray
    knowable: np.ndarray
    weight: np.ndarray


def simulate(world: World, seed: int, rows: int) -> tuple[Logits, Sample]:
    """A labelled validation fold and `rows` unlabelled rows to decide, both of the same network.

    Half of the latter are drawn with equal class frequencies, or rare classes would hardly be among them; the weights
    undo it.
    """
    rng = np.random.default_rng([seed, 26])
    means = world.signal * (1 + 0.3 * rng.uniform(-1, 1, 20))
    deviation = np.hypot(world.noise, world.rare_noise * RARE)
    shift = world.bias * rng.normal(size=20)
    seen = NATURAL ** (1 - world.sampler)
    prior = seen / seen.sum()

    def draw(truth: np.ndarray) -> Sample:
        x = rng.normal(size=(len(truth), 20))
        x[np.arange(len(truth)), truth] += means[truth]
        evidence = means * x - means**2 / 2
        heard = evidence + deviation * rng.normal(size=(world.views, *evidence.shape))
        logits = heard + np.log(prior) + shift
        if world.smoothing:  # the minimiser of the smoothed loss
            logits = np.log((1 - world.smoothing) * softmax(logits) + world.smoothing / 20)
        # noise of variance τ² on evidence of variance m² leaves the log-likelihood ratio m²/(m² + τ²) of what is heard
        left = means**2 / (means**2 + deviation**2 / world.views)
        natural, equal = (np.log(np.exp(evidence) @ frequency) for frequency in (NATURAL, np.full(20, 1 / 20)))
        return Sample(
            world.scale * logits,
            softmax(evidence + np.log(NATURAL)),
            softmax(left * heard.mean(axis=0) + np.log(NATURAL)),
            2 / (1 + np.exp(equal - natural)),
        )

    val = draw(VALIDATION)
    half = rng.choice(20, rows // 2, p=NATURAL), rng.integers(0, 20, rows - rows // 2)
    names = np.array([f"class {c}" for c in range(20)])
    return _file(val.logits, np.eye(20)[VALIDATION], names, prior), draw(np.concatenate(half))


def _file(logits: np.ndarray, targets: np.ndarray, names: np.ndarray, prior: np.ndarray) -> Logits:
    return Logits(
        np.arange(len(targets)).astype(str),
        np.float32(logits),
        np.float32(targets),
        names,
        COUNTS,
        int(COUNTS.sum()),
        prior,
    )


def expected_score(answers: np.ndarray, sample: Sample, costs: Costs = Costs()) -> float:
    """The score of answers [N] on a large test set of naturally distributed rows: −fn + mean_c E[((tp + fp + fn)·p_c −
    fp)·1(answer c)] / π_c, p the exact posterior."""
    chosen = sample.exact[np.arange(len(answers)), answers]
    earned = ((costs.tp + costs.fp + costs.fn) * chosen - costs.fp) / NATURAL[answers]
    return float((earned * sample.weight).mean() / 20 - costs.fn)


def one_temperature(val: Logits) -> Posterior:
    """The simpler estimator that the Bayes rule is measured against: softmax(z/T + log π_natural − log π_train), T by
    its likelihood."""

    def posterior(log_temperature: float) -> Posterior:
        slope = math.exp(-log_temperature)
        return Posterior(np.full(20, slope), -(1 - slope) * np.log(val.prior))

    low, high, golden = math.log(0.2), math.log(5), (math.sqrt(5) - 1) / 2
    for _ in range(18):  # golden-section search, to 0.05 %
        left, right = high - golden * (high - low), low + golden * (high - low)
        better = nll(posterior(left).probabilities(val), truth_of(val)) < nll(
            posterior(right).probabilities(val), truth_of(val)
        )
        low, high = (low, right) if better else (left, high)
    return posterior((low + high) / 2)


def scores(world: World, seed: int, rows: int) -> dict[str, float]:
    """The expected score of the exact and of the knowable best decision, of every rule, and of `bayes` with one
    temperature only."""
    val, sample = simulate(world, seed, rows)
    test = _file(sample.logits, np.full(sample.exact.shape, np.nan), val.classes, val.prior)
    answers = {
        name: bayes_scores(p, NATURAL, Costs()).argmax(axis=1)
        for name, p in (
            ("exact", sample.exact),
            ("knowable", sample.knowable),
            ("one temperature", one_temperature(val).probabilities(test)),
        )
    }
    for name, rule in RULES.items():
        answers[name] = rule.answers([test], [rule.fit(val, Costs())], Costs())
    return {name: expected_score(answer, sample) for name, answer in answers.items()}


def prove(worlds: Sequence[World], seeds: int, rows: int, tell: Callable[[str], None]) -> list[dict]:
    """Every world over the seeds: mean and standard deviation of the scores, of the regrets, and how far public rules
    are ahead."""
    results = []
    for world in worlds:
        found = [scores(world, seed, rows) for seed in range(seeds)]
        of = {name: np.array([one[name] for one in found]) for name in found[0]}
        ahead = {name: of[name] - of["bayes"] for name in PUBLIC}
        result = {
            "world": world.name,
            "parameters": world.parameters(),
            "seeds": seeds,
            "scores": {name: _spread(values) for name, values in of.items()},
            "regret_exact": _spread(of["exact"] - of["bayes"]),
            "regret_knowable": _spread(of["knowable"] - of["bayes"]),
            "regret_one_temperature": _spread(of["knowable"] - of["one temperature"]),
            "public_ahead": [
                name for name, values in ahead.items() if values.mean() > 2 * values.std(ddof=1) / math.sqrt(seeds)
            ],
        }
        results.append(result)
        tell(line(result))
    return results


def against_peers(worlds: Sequence[World], seeds: int, rows: int, tell: Callable[[str], None]) -> list[dict]:
    """In every world the expected negative log-likelihood in nats of calibrators of others and of ours, and the score
    of the best answers by each; means over the seeds."""
    results = []
    tell(f"{'world':26}" + "".join(f"{name:>26}" for name in ("knowable", *calibrators.NAMES)))
    for world in worlds:
        found = []
        for seed in range(seeds):
            val, sample = simulate(world, seed, rows)
            test = _file(sample.logits, np.full(sample.exact.shape, np.nan), val.classes, val.prior)
            made = {name: posterior(test) for name, posterior in calibrators.fitted(val).items()}
            found.append({name: _worth(p, sample) for name, p in {"knowable": sample.knowable, **made}.items()})
        means = {name: np.mean([one[name] for one in found], axis=0).tolist() for name in found[0]}
        results.append({"world": world.name, "calibrators": means})
        cells = [f"{likelihood:.4f}, {score:.3f}" for likelihood, score in means.values()]
        tell(f"{world.name:26}" + "".join(f"{cell:>26}" for cell in cells))
    return results


def _worth(p: np.ndarray, sample: Sample) -> tuple[float, float]:
    """Negative log-likelihood and score, expected under the exact posterior."""
    each = -(sample.exact * np.log(np.maximum(p, 1e-12))).sum(axis=1)
    answers = bayes_scores(p, NATURAL, Costs()).argmax(axis=1)
    return float((each * sample.weight).mean()), expected_score(answers, sample)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1))}


COLUMNS = ("exact", "knowable", "bayes", "argmax", "temperature", *PUBLIC)


def header() -> str:
    return f"{'world':26}{'parameters':40}" + "".join(
        f"{name:>14}" for name in (*COLUMNS, "to exact", "to knowable", "one temp.")
    )


def line(result: dict) -> str:
    regrets = (result["regret_exact"], result["regret_knowable"], result["regret_one_temperature"])
    cells = [f"{result['scores'][name]['mean']:.2f} ± {result['scores'][name]['sd']:.2f}" for name in COLUMNS]
    cells += [f"{figures['mean']:.3f} ± {figures['sd']:.3f}" for figures in regrets]
    return f"{result['world']:26}{result['parameters']:40}" + "".join(f"{cell:>14}" for cell in cells)


def verdict(results: Sequence[dict]) -> list[str]:
    worst, single = (
        max(results, key=lambda result: result[key]["mean"]) for key in ("regret_knowable", "regret_one_temperature")
    )
    ahead = [f"{name} in {result['world']}" for result in results for name in result["public_ahead"]]
    return [
        (
            f"bayes: largest mean regret to the knowable best {worst['regret_knowable']['mean']:.3f}, in"
            f" {worst['world']} (aim: 0.03); with one temperature only {single['regret_one_temperature']['mean']:.3f},"
            f" in {single['world']}"
        ),
        f"public rules ahead of bayes by more than two paired standard errors: {', '.join(ahead) or 'none'}",
    ]


def main(argv: list[str]) -> None:
    parser = Parser("worlds")
    parser.add_argument("--seeds", type=int, default=5, help="how often every world is drawn (5)")
    parser.add_argument("--rows", type=int, default=50_000, help="rows that the expectations are taken over (50000)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table there too")
    parser.add_argument("--peers", action="store_true", help="calibrators of others instead (needs probmetrics)")
    given = parser.parse_args(argv)
    if not (2 <= given.seeds <= 10**4 and 1000 <= given.rows <= 10**7):
        raise UserError("--seeds must be 2 to 10000, and --rows 1000 to 10000000")
    if given.json and (given.json.is_dir() or not given.json.absolute().parent.is_dir()):
        raise UserError(f"--json {given.json}: name a file in a folder that exists")
    if given.peers:
        print("negative log-likelihood and score of every calibration, means over the seeds", flush=True)
        results = against_peers(WORLDS, given.seeds, given.rows, lambda text: print(text, flush=True))
        _write(given.json, results)
        return
    print(
        "scores: mean ± s.d. over the seeds, expected under the exact posterior; the last three columns: regret of"
        " bayes to the decision by the exact\nposterior and to the best decision that these logits allow, and the"
        " latter for bayes with one temperature only\n" + header(),
        flush=True,
    )
    results = prove(WORLDS, given.seeds, given.rows, lambda text: print(text, flush=True))
    print("\n".join(verdict(results)))
    _write(given.json, results)


def _write(path: Path | None, results: list[dict]) -> None:
    if path:
        write_json(path, {"worlds": results})
        print(f"wrote {shown(path)}")


if __name__ == "__main__":
    raise SystemExit(command(main))
