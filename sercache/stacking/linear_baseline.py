"""The linear baseline beside the meta-levels: its predictions of the rows that they are judged on."""

from dataclasses import replace

from sercache.errors import StackingError
from sercache.events import Event, Listener, ignore
from sercache.posteriors import Posteriors
from sercache.run import Run
from sercache.stacking.plan import Plan
from sercache.stacking.rows import columns_in_order
from sercache.stacking.task import StackerResult, posteriors_path

BASELINE = "baseline"
"""What the baseline is called in a comparison, whatever the member is called that it is."""


def baseline_result(
    baseline: Posteriors, plan: Plan, run: Run, listener: Listener = ignore
) -> StackerResult | None:
    """Return what the baseline predicts of the judged rows, written as a stacker's result.

    Nothing is fitted: out-of-fold rows were predicted by the fold model that did not see the speaker, rows of
    the test split by the mean of the fold models.

    Args:
        baseline: over the rows of the run.
        plan: which rows are judged.
        run: the folder that the result goes to.
        listener: told why there is no result.

    Returns:
        None where the baseline does not fit the judged rows.
    """
    judged, folder = plan.judged, run.stacker_folder(BASELINE)
    inputs = judged.inputs
    try:
        if baseline.fold_map_digest != judged.fold_map_digest:
            raise StackingError("it was fitted on other folds than the members")
        if missing := set(inputs.ids) - set(baseline.ids):
            raise StackingError(f"it does not predict {len(missing)} rows, first '{min(missing)}'")
        taken = baseline.take(inputs.ids)
        if (taken.origins == "in-sample").any():
            raise StackingError("it was fitted on rows that it would be judged on")
        attributes = tuple(attribute.name for attribute in inputs.attributes)
        class_order = columns_in_order("classes", taken.classes, inputs.classes)
        attribute_order = columns_in_order("attributes", taken.attributes, attributes)
    except StackingError as error:
        message = f"the baseline is left out: {error}; sercache train-ensemble fits it"
        listener(Event("warning", "stack", message=message))
        return None
    arranged = replace(
        taken,
        member=BASELINE,
        classes=inputs.classes,
        attributes=attributes,
        class_probabilities=taken.class_probabilities[:, class_order],
        attribute_values=taken.attribute_values[:, attribute_order],
    )
    for repeat in range(plan.repeats):
        arranged.save(posteriors_path(folder, repeat))
    unknown = float("nan")
    return StackerResult(BASELINE, (arranged,) * plan.repeats, unknown, unknown, unknown, {})
