"""The seam: what differs between the tasks, as one record of values and plain functions. Nothing compares its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import folds
import labels
import metrics
import stats
from calibrate import probabilities
from errors import UserError, some
from files import Logits, write_submission
from metrics import Costs
from rules import RULES, parted, posterior_of, truth_of


@dataclass(frozen=True)
class Task:
    name: str
    read: Callable[[Path], labels.Tables]  # data folder → labelled table and test ids
    strata: Callable[[np.ndarray], np.ndarray]  # targets [N, C] → int [N], what the split keeps in proportion
    split: Callable[[np.ndarray, float, int], np.ndarray]  # strata, fraction, seed → bool [N], True = validation
    loss: str  # a name in losses.LOSSES
    corrections: tuple[frozenset[str], ...]  # of class imbalance: the sets of them that may be used together
    conflict: str  # why other sets may not
    views: tuple[str, ...]  # names in infer.VIEWS that test-time augmentation may use
    monitor: str  # the figure of `metrics` that chooses the epoch
    mode: str  # "max" or "min"
    metrics: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]  # targets [N, C], logits [N, C], counts [C]
    rules: tuple[str, ...]  # names of decision rules
    calibrate: Callable[..., dict]  # validation logits, one file a network, and a fixed temperature or None → calibration.json
    decide: Callable[..., np.ndarray]  # test logits, one file a network; calibration; rule; natural counts or None → int [N]
    posterior: Callable[..., np.ndarray]  # test logits, calibration → float [N, C] under the natural class frequencies
    write: Callable[..., None]  # path, ids, classes, answers, test.csv's ids → the checked submission
    held_out: Callable[..., tuple]  # validation logits, calibration, rules → answers of each [N], posterior [N, C], by fits that did not see the row
    report: Callable[[Sequence[Logits], dict], dict]  # validation logits, calibration → figures of every rule beside the bar
    report_test: Callable[..., dict]  # test logits, calibration, targets → the same where test labels are known


def competition(costs: Costs = Costs()) -> Task:
    """The 20-class competition: one answer an image, scored by the asymmetric cost."""
    return Task(
        name="competition",
        read=labels.read_competition,
        strata=lambda targets: targets.argmax(axis=1),
        split=folds.stratified,
        loss="cross_entropy",
        corrections=(frozenset(), frozenset({"sampler"}), frozenset({"loss_weights"}), frozenset({"logit_adjustment"})),
        conflict="each of them shifts the class prior that the network learns, and together they drown the common classes (a sampler "
        "with loss weights and focal loss scored −117 on Kaggle): keep one",
        views=("original", "flip"),
        monitor="score",
        mode="max",
        metrics=partial(_monitor, costs),
        rules=tuple(RULES),
        calibrate=partial(_calibrate, costs),
        decide=_decide,
        posterior=_posterior,
        write=write_submission,
        held_out=_held_out,
        report=_report,
        report_test=_report_test,
    )


TASKS: dict[str, Callable[..., Task]] = {  # name → configuration → task
    "competition": lambda config: competition(Costs(*config.costs)),
}


def tally(targets: np.ndarray, answers: np.ndarray) -> metrics.Tally:
    """Count integer answers [N] against one-hot targets [N, C]."""
    return metrics.tally(targets.argmax(axis=1), answers, targets.shape[1])


def _monitor(costs: Costs, targets: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    return metrics.summary(tally(targets, np.where(counts > 0, logits, -np.inf).argmax(axis=1)), costs)


def _calibrate(costs: Costs, vals: Sequence[Logits], temperature: float | None = None) -> dict:
    """Every rule's parameters, fitted on each network's own validation rows; a given temperature is kept instead of the tuned one."""
    for val in vals:
        if np.isnan(val.targets).any():
            raise UserError("these logits have no labels to tune on: give the validation fold's file, val_logits.npz")
        if not ((val.targets == 1).sum(axis=1) == 1).all() or not np.isin(val.targets, (0, 1)).all():
            raise UserError("these logits have rows without exactly one label, and the rules decide between classes: one 1 among 0s is wanted")
        if len(val.ids) < 2:
            raise UserError("one labelled row is too few to tune on")
    _same_classes([val.classes.tolist() for val in vals], "the validation files")
    ids = np.concatenate([val.ids for val in vals])
    names, times = np.unique(ids, return_counts=True)
    if (times > 1).any():
        raise UserError(f"{(times > 1).sum()} ids stand more than once in the validation files, whose rows must be different images: {some(names[times > 1])}")
    kept = {} if temperature is None else {"temperature": {"temperature": temperature, "tuned": False}}
    return {
        "classes": vals[0].classes.tolist(),
        "costs": vars(costs),
        "networks": [
            {"rows": len(val.ids), "counts": val.counts.tolist(), "prior": val.prior.tolist(),
             "rules": {name: kept.get(name) or rule.fit(val, costs) for name, rule in RULES.items()}}
            for val in vals
        ],
    }


def _same_classes(lists: Sequence[list[str]], what: str) -> None:
    for classes in lists[1:]:
        if classes != lists[0]:
            odd = sorted(set(classes) ^ set(lists[0]))
            raise UserError(f"{what} are for other classes: {some(odd)} in only one of them" if odd else f"{what} have their classes in different orders")


def _fitted(contents: Sequence[Logits], calibration: dict, rule: str) -> list[dict]:
    """The rule's parameters for every network, after checking that the calibration was fitted for these networks."""
    if rule not in RULES:
        raise UserError(f"there is no rule {rule!r}; there are {some(RULES)}")
    try:
        networks = calibration["networks"]
        for network in networks:
            _ = np.array(network["counts"], float), np.array(network["prior"], float), network["rules"][rule]
        _same_classes([calibration["classes"], *(content.classes.tolist() for content in contents)], "the logits and their calibration")
        if len(networks) != len(contents):
            raise UserError(f"the calibration was fitted on {len(networks)} validation files where {len(contents)} logits files are to be decided: one each, in the same order")
        for number, (network, content) in enumerate(zip(networks, contents, strict=True), start=1):
            for what in ("counts", "prior"):
                if not np.allclose(network[what], getattr(content, what), rtol=1e-6):
                    raise UserError(f"the class {what} of logits file {number} are not those of the network that was calibrated: tune on its own validation logits, in the same order")
            if rule == "temperature" and not 0 < network["rules"][rule]["temperature"] < np.inf:
                raise UserError(f"the calibration's temperature {network['rules'][rule]['temperature']} is no positive number: make it again with tune")
        return [network["rules"][rule] for network in networks]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"the calibration has no usable parameters for rule {rule}: make it again with tune") from error


def _decide(tests: Sequence[Logits], calibration: dict, rule: str, counts: np.ndarray | None = None) -> np.ndarray:
    params = _fitted(tests, calibration, rule)
    for test in tests[1:]:
        if not np.array_equal(test.ids, tests[0].ids):
            raise UserError("the logits files hold different images, or in different orders: all must be of the same test set")
    try:
        return RULES[rule].answers(tests, params, Costs(**calibration["costs"]), counts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the calibration has no usable parameters for rule {rule}: make it again with tune") from error


def _posterior(tests: Sequence[Logits], calibration: dict) -> np.ndarray:
    params = _fitted(tests, calibration, "bayes")
    return np.mean([posterior_of(own).probabilities(test) for test, own in zip(tests, params, strict=True)], axis=0)


def _held_out(vals: Sequence[Logits], calibration: dict, rules: Sequence[str] = tuple(RULES)) -> tuple[dict[str, np.ndarray], np.ndarray]:
    costs, rows = Costs(**calibration["costs"]), sum(len(val.ids) for val in vals)
    own = {rule: _fitted(vals, calibration, rule)[0] for rule in rules}
    answers, posterior = {rule: np.empty(rows, int) for rule in rules}, np.full((rows, len(vals[0].classes)), np.nan)
    for where, others, part in parted(vals):
        for rule in rules:
            params = RULES[rule].fit(others, costs) if own[rule].get("tuned", True) else own[rule]
            answers[rule][where] = RULES[rule].answers([part], [params], costs)
            if rule == "bayes":
                posterior[where] = posterior_of(params).probabilities(part)
    return answers, posterior


def _report(vals: Sequence[Logits], calibration: dict) -> dict:
    """Every rule on the validation rows, fitted on all of them and cross-fitted, and the constant answer.

    `calibration` holds negative log-likelihood, Brier score and reliability of the plain softmax (`before`) and of the
    cross-fitted posterior under the natural frequencies (`after`).
    """
    costs, names = Costs(**calibration["costs"]), vals[0].classes
    targets, truth = np.concatenate([val.targets for val in vals]), np.concatenate([truth_of(val) for val in vals])
    answers, posterior = _held_out(vals, calibration)
    found = _compare(targets, answers, int(np.argmax(sum(val.counts for val in vals))), names, costs)
    for rule in RULES:
        params = _fitted(vals, calibration, rule)
        fitted = np.concatenate([RULES[rule].answers([val], [own], costs) for val, own in zip(vals, params, strict=True)])
        found["rules"][rule]["fitted"] = metrics.competition_score(tally(targets, fitted), costs)
    plain = np.concatenate([probabilities(val.logits) for val in vals])
    known = np.any([val.counts > 0 for val in vals], axis=0)
    return {
        **found,
        "untrained_classes": names[~known].tolist(),
        "calibration": {name: {"nll": metrics.nll(p, truth), "brier": metrics.brier(p, truth), "reliability": metrics.reliability(p, truth)}
                        for name, p in (("before", plain), ("after", posterior))},
    }


def _report_test(tests: Sequence[Logits], calibration: dict, targets: np.ndarray) -> dict:
    """The same figures for test rows whose labels are known, every rule with the parameters that the calibration holds."""
    answers = {rule: _decide(tests, calibration, rule) for rule in RULES}
    return _compare(targets, answers, int(np.argmax(sum(test.counts for test in tests))), tests[0].classes, Costs(**calibration["costs"]))


def _compare(targets: np.ndarray, answers: dict[str, np.ndarray], commonest: int, names: np.ndarray, costs: Costs) -> dict:
    """The rules' answers beside always answering the commonest class, and beside the Bayes rule's on the same rows.

    The intervals are by a bootstrap that keeps the number of images of every class. The constant answer's score does not
    change in it, so the difference to it is as uncertain as the score itself.
    """
    truth = targets.argmax(axis=1)
    always = metrics.constant(targets.sum(axis=0).astype(int), commonest)
    bar = metrics.summary(always, costs)
    earned = {rule: metrics.earned(truth, answer, len(names), costs) for rule, answer in answers.items()}
    rules = {}
    for rule, answer in answers.items():
        draws = stats.bootstrap(earned[rule], truth)
        figures = metrics.summary(tally(targets, answer), costs)
        rules[rule] = {**figures, "interval": stats.interval(draws), "over_always": figures["score"] - bar["score"],
                       "over_always_interval": stats.interval(draws - bar["score"])}
    bayes_minus = {rule: {"difference": float((earned["bayes"] - other).sum()), "interval": stats.interval(stats.bootstrap(earned["bayes"] - other, truth))}
                   for rule, other in earned.items() if rule != "bayes"}
    return {
        "images": len(truth),
        "always": {"class": str(names[commonest]), **bar},
        "rules": rules,
        "bayes_minus": bayes_minus,
        "few_images": names[always.present & (always.n < 5)].tolist(),
        "skipped_classes": names[~always.present].tolist(),
    }
