"""Pictures of a report: one for each scenario."""

from pathlib import Path

from streambed.bench.report import Report
from streambed.bench.spread import spread


def draw(report: Report, scenario: str, target: Path) -> None:
    """Medians, with lines from the first quartile to the third; our floors as marks. Logarithmic, so that a distance is a
    ratio wherever it is.

    Each metric has an axis of its own, since milliseconds and tokens a second do not compare. Raises OSError.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in report.rows if row.scenario == scenario]
    units = list(dict.fromkeys(row.metric.unit for row in rows))
    heights = [sum(row.metric.unit == unit for row in rows) for unit in units]
    size = (9, 0.3 * len(report.sides) * len(rows) + 1.2 * len(units) + 0.8)
    figure, axes = pyplot.subplots(len(units), squeeze=False, figsize=size, layout="constrained", height_ratios=heights)
    thickness = 0.8 / len(report.sides)
    for axis, unit in zip(axes[:, 0], units, strict=True):
        shown = [row for row in rows if row.metric.unit == unit]
        for number, (name, numbers) in enumerate(report.sides.items()):
            asked = [(place, row.values[name]) for place, row in enumerate(shown) if name in row.values]
            if not asked:
                continue
            found = [spread(values) for _, values in asked]
            axis.errorbar(
                [each.median for each in found],
                [place + number * thickness for place, _ in asked],
                xerr=[[each.median - each.low for each in found], [each.high - each.median for each in found]],
                fmt="o",
                markersize=5,
                label=f"{name} ({numbers})",
            )
        floors = [(row.floor, place) for place, row in enumerate(shown) if row.floor is not None]
        if floors:
            axis.plot(*zip(*floors, strict=True), "k|", markersize=10, label="our floor")
        axis.set_yticks([place + 0.4 - thickness / 2 for place in range(len(shown))], [row.title for row in shown])
        axis.set(xscale="log", xlabel=unit)
        axis.invert_yaxis()
        axis.grid(axis="x", which="both", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    try:
        figure.savefig(target, dpi=120)
    finally:
        pyplot.close(figure)
