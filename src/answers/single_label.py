"""From logits to decisions where every image gets one class: the calibration of all rules, the answers, the reports.

A calibration is what calibration.json holds: classes, costs, and for every network (fold) the counts and prior of its
logits and the parameters of every rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from answers import metrics, multi_label, stats
from answers.metrics import Costs, tally_one_hot
from answers.posterior import Posterior, probabilities, trained
from answers.rules import RULES, parted, posterior_of, truth_of
from core.errors import UserError, some
from core.logits_file import Logits, different_images, pooled, same_classes, same_images


def calibrate(costs: Costs, vals: Sequence[Logits], temperature: float | None = None) -> dict:
    """Every rule's parameters, fitted on each network's own validation rows; a given temperature is kept instead of the
    tuned one."""
    _check_labels(vals)
    kept = {} if temperature is None else {"temperature": {"temperature": temperature, "tuned": False}}
    return {
        "classes": vals[0].classes.tolist(),
        "costs": vars(costs).copy(),
        "networks": [
            {
                "rows": len(val.ids),
                "counts": val.counts.tolist(),
                "prior": val.prior.tolist(),
                "rules": {name: kept.get(name) or rule.fit(val, costs) for name, rule in RULES.items()},
            }
            for val in vals
        ],
    }


def _check_labels(vals: Sequence[Logits]) -> None:
    for val in vals:
        if np.isnan(val.targets).any():
            raise UserError("these logits have no labels to tune on: give the validation fold's file, val_logits.npz")
        if not ((val.targets == 1).sum(axis=1) == 1).all() or not np.isin(val.targets, (0, 1)).all():
            raise UserError(
                "these logits have rows without exactly one label, and the rules decide between classes: one 1 among 0s"
                " is wanted"
            )
        if len(val.ids) < 2:
            raise UserError("one labelled row is too few to tune on")
    same_classes([val.classes.tolist() for val in vals], "the validation files")
    different_images(vals)


def _fitted(contents: Sequence[Logits], calibration: dict, rule: str) -> tuple[Costs, list[dict]]:
    """The costs and the rule's parameters for every network, after checking that they were fitted for these
    networks."""
    if rule not in RULES:
        raise UserError(f"there is no rule {rule!r}; there are {some(RULES)}")
    try:
        networks = calibration["networks"]
        same_classes(
            [calibration["classes"], *(content.classes.tolist() for content in contents)],
            "the logits and their calibration",
        )
        if len(networks) != len(contents):
            raise UserError(
                f"the calibration was fitted on {len(networks)} validation files, and {len(contents)} logits files are"
                " to be decided: one each, in the same order"
            )
        for number, (network, content) in enumerate(zip(networks, contents, strict=True), start=1):
            for what in ("counts", "prior"):
                if not np.allclose(network[what], getattr(content, what), rtol=1e-6):
                    raise UserError(
                        f"the class {what} of logits file {number} are not those of the network that was calibrated:"
                        " tune on its own validation logits"
                    )
            RULES[rule].check(network["rules"][rule], len(content.classes))
        return Costs(**calibration["costs"]), [network["rules"][rule] for network in networks]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"the calibration has no usable parameters for rule {rule} ({error}): make it again with tune"
        ) from error


def classes_of(tests: Sequence[Logits], calibration: dict, rule: str, counts: np.ndarray | None = None) -> np.ndarray:
    """The answer to every row of the test logits (one file a network), int [N]. `counts` replaces the natural class
    counts."""
    costs, params = _fitted(tests, calibration, rule)
    same_images(tests)
    return RULES[rule].answers(tests, params, costs, counts)


def decide(tests: Sequence[Logits], calibration: dict, rule: str, counts: np.ndarray | None = None) -> np.ndarray:
    """The same answers as a 1 among 0s, int [N, C]."""
    return np.eye(len(tests[0].classes), dtype=int)[classes_of(tests, calibration, rule, counts)]


def posterior(tests: Sequence[Logits], calibration: dict) -> np.ndarray:
    """The calibrated posterior under the natural class frequencies of all networks, averaged over them: float [N,
    C]."""
    _, params = _fitted(tests, calibration, "bayes")
    same_images(tests)
    counts = sum(test.counts for test in tests)
    return np.mean(
        [posterior_of(own).probabilities(test, counts) for test, own in zip(tests, params, strict=True)], axis=0
    )


ALWAYS = ("argmax", "temperature", "bayes")  # rules that every calibration has had


def rules_in(calibration: dict) -> list[str]:
    """The rules that a calibration holds; one that was made before a rule was there lacks it."""
    try:
        networks = [network["rules"] for network in calibration["networks"]]
        return [rule for rule in RULES if rule in ALWAYS or all(rule in rules for rules in networks)]
    except (KeyError, TypeError):
        return list(RULES)  # `_fitted` says what is wrong with it


@dataclass(frozen=True)
class Sample:
    """Rows that a score is of, and how they are resampled for its intervals: whole patients where they are known (str
    [N]), otherwise images, as many of every class."""

    truth: np.ndarray
    classes: int
    costs: Costs
    patients: np.ndarray | None = None

    @property
    def resampled(self) -> str:
        return "images, as many of every class" if self.patients is None else "patients"

    def areas(self, p: np.ndarray) -> tuple[float, np.ndarray]:
        """Macro AUC: the mean over the classes of the area under the ROC curve of each against all others, by p [N, C];
        and the same in every draw, float [draws]. Classes without an image are left out, in a draw too; NaN where there
        are not two of them."""
        there = np.flatnonzero(np.bincount(self.truth, minlength=self.classes))
        if len(there) < 2:
            return float("nan"), np.full(1, np.nan)
        by_image = self.patients is None
        drawn = stats.stratified_weights(self.truth) if by_image else stats.cluster_weights(self.patients)
        weights = np.concatenate([np.ones((1, len(p)), drawn.dtype), drawn])
        among = np.ones(len(p), bool)
        each = np.array([stats.ranking(self.truth == c, p[:, c], among, weights)[0] for c in there])
        macro = np.nanmean(each, axis=0)
        return float(macro[0]), macro[1:]

    def draws(self, answers: Sequence[np.ndarray], minus: Sequence[np.ndarray] = ()) -> np.ndarray:
        """The mean score of some answers, int [N] each, in every draw, less that of others: float [draws]."""
        sides = [(1 / len(answers), answers), (-1 / max(len(minus), 1), minus)]
        if self.patients is None:
            n = np.bincount(self.truth, minlength=self.classes)
            parts = [part * metrics.earned(self.truth, one, n, self.costs) for part, side in sides for one in side]
            return stats.bootstrap(np.sum(parts, axis=0), self.truth)
        weights = stats.cluster_weights(self.patients).astype(float)
        scores = [
            part * metrics.weighted_scores(self.truth, one, weights, self.classes, self.costs)
            for part, side in sides
            for one in side
        ]
        return np.sum(scores, axis=0)


def held_out(
    vals: Sequence[Logits], calibration: dict, rules: Sequence[str] | None = None, patients: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Cross-fitting: the answers of every rule [N], and the Bayes rule's posterior [N, C], by fits that did not see the
    row.

    A temperature that was given and not tuned is kept.
    """
    _check_labels(vals)
    rows = sum(len(val.ids) for val in vals)
    rules = rules_in(calibration) if rules is None else rules
    fitted = {rule: _fitted(vals, calibration, rule) for rule in rules}
    answers, posteriors = {rule: np.empty(rows, int) for rule in rules}, np.full((rows, len(vals[0].classes)), np.nan)
    for where, number, others, part in parted(vals, patients):
        for rule, (costs, params) in fitted.items():
            own = RULES[rule].fit(others, costs) if params[number].get("tuned", True) else params[number]
            answers[rule][where] = RULES[rule].answers([part], [own], costs)
            if rule == "bayes":
                posteriors[where] = posterior_of(own).probabilities(part)
    return answers, posteriors


# ---- figures that may choose an epoch
def corrected(val: Logits) -> np.ndarray:
    """The plain softmax with nothing but the training prior undone (Saerens et al. 2002, equation 2.4), averaged over
    the views: float [N, C]."""
    return Posterior(np.ones(len(val.classes)), np.zeros(len(val.classes))).probabilities(val)


def natural(vals: Sequence[Logits]) -> np.ndarray:
    """`corrected` of validation rows, each by its own network and under the frequencies of all of them."""
    return corrected(pooled(vals, exclusive=True))


def natural_test(tests: Sequence[Logits]) -> np.ndarray:
    """`corrected` of test rows, averaged over the networks."""
    return np.mean([corrected(test) for test in tests], axis=0)


def expected_score(val: Logits, costs: Costs) -> float:
    """The competition score of the Bayes rule's answers to validation rows that its fit did not see."""
    rule, answers = RULES["bayes"], np.empty(len(val.ids), int)
    for where, _, others, part in parted([val]):
        answers[where] = rule.answers([part], [rule.fit(others, costs)], costs)
    return metrics.competition_score(tally_one_hot(val.targets, answers), costs)


def log_likelihood(val: Logits, costs: Costs) -> float:
    """Mean log-likelihood of the truth under `corrected`, in nats."""
    return -metrics.nll(corrected(val), truth_of(val))


def auc(val: Logits, costs: Costs) -> float:
    """Macro AUC-ROC of `corrected`, one class against the rest, over the classes that have rows and do not have all."""
    return multi_label.monitor(val.targets, corrected(val))["auc"]


MONITORS: dict[str, Callable[[Logits, Costs], float]] = {
    "expected_score": expected_score,
    "log_likelihood": log_likelihood,
    "auc": auc,
}


def report(vals: Sequence[Logits], calibration: dict, patients: np.ndarray | None = None) -> dict:
    """Every rule on the validation rows, fitted on all of them and cross-fitted, and the constant answer.

    patients: of the rows of all files, str [N]; with them cross-fitting and intervals go by patient. `calibration`
    holds negative log-likelihood, Brier score and reliability of the plain softmax (`before`) and of the
    cross-fitted posterior under the natural frequencies (`after`).
    """
    answers, posteriors = held_out(vals, calibration, patients=patients)
    targets, truth = np.concatenate([val.targets for val in vals]), np.concatenate([truth_of(val) for val in vals])
    found = _compare(targets, answers, natural(vals), vals, Costs(**calibration["costs"]), patients)
    for rule in answers:
        costs, params = _fitted(vals, calibration, rule)
        fitted = np.concatenate(
            [RULES[rule].answers([val], [own], costs) for val, own in zip(vals, params, strict=True)]
        )
        found["rules"][rule]["fitted"] = metrics.competition_score(tally_one_hot(targets, fitted), costs)
    plain = np.concatenate([probabilities(val.logits) for val in vals])
    return {
        **found,
        "untrained_classes": vals[0].classes[~np.all([trained(val) for val in vals], axis=0)].tolist(),
        "calibration": {
            name: {
                "nll": metrics.nll(p, truth),
                "brier": metrics.brier(p, truth),
                "reliability": metrics.reliability(p, truth),
            }
            for name, p in (("before", plain), ("after", posteriors))
        },
    }


def report_test(tests: Sequence[Logits], calibration: dict, patients: np.ndarray | None = None) -> dict:
    """The same figures for test rows whose labels are known, every rule with the parameters that the calibration
    holds."""
    answers = {rule: classes_of(tests, calibration, rule) for rule in rules_in(calibration)}
    return _compare(tests[0].targets, answers, natural_test(tests), tests, Costs(**calibration["costs"]), patients)


def _compare(
    targets: np.ndarray,
    answers: dict[str, np.ndarray],
    p: np.ndarray,
    contents: Sequence[Logits],
    costs: Costs,
    patients: np.ndarray | None,
) -> dict:
    """The rules' answers beside always answering the commonest class, and beside the Bayes rule's on the same rows; and
    how well p [N, C] ranks every class."""
    truth, n, names = targets.argmax(axis=1), targets.sum(axis=0).astype(int), contents[0].classes
    sample = Sample(truth, len(names), costs, patients)
    commonest = int(np.argmax(sum(content.counts for content in contents)))
    always, constant = metrics.constant(n, commonest), np.full(len(truth), commonest)
    bar = metrics.summary(always, costs)
    rules = {}
    for rule, answer in answers.items():
        figures = metrics.summary(tally_one_hot(targets, answer), costs)
        rules[rule] = {
            **figures,
            "interval": stats.interval(sample.draws([answer])),
            "over_always": figures["score"] - bar["score"],
            "over_always_interval": stats.interval(sample.draws([answer], [constant])),
        }
    minus = {}
    for rule in ("argmax", "temperature"):
        difference = rules["bayes"]["score"] - rules[rule]["score"]
        draws = sample.draws([answers["bayes"]], [answers[rule]])
        minus[rule] = {"difference": difference, "interval": stats.interval(draws)}
    area, drawn = sample.areas(p)
    return {
        "images": len(truth),
        "auc": None if np.isnan(area) else {"macro": area, "interval": stats.interval(drawn)},
        **({} if patients is None else {"patients": len(np.unique(patients))}),
        "always": {"class": str(names[commonest]), **bar},
        "rules": rules,
        "bayes_minus": minus,
        "few_images": names[always.present & (always.n < 5)].tolist(),
        "skipped_classes": names[~always.present].tolist(),
    }
