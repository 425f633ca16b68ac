"""The README's figures: one image's heat maps on three networks, and which object depends on which.

python experiments/draw_figures.py
"""

from __future__ import annotations

from pathlib import Path

import jmlv
from jmlv.cli.inputs import example, network, test_images

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
NETWORKS = ("none", "l0", "linf")
STRATEGY = jmlv.LayerSearch(complete=None)


def main(image: int = 3) -> None:
    jmlv.keep_compiled()
    data = test_images(None)
    chosen = example(data, image, 0)
    layers = jmlv.Layers.around(chosen.perturbed)
    graphs = {name: network(Path("checkpoints") / f"double_digits_{name}")[0] for name in NETWORKS}
    grown = {
        name: jmlv.grow(graph, chosen.x, layers, chosen.property, STRATEGY, maximality=None)
        for name, graph in graphs.items()
    }
    title = f"How much each pixel may change while {chosen.target_label} stays in the top 2"
    figure = jmlv.plotting.heatmaps(
        grown,
        target=data.masks[image, 1],
        object_labels=(chosen.perturbed_label, chosen.target_label),
        title=title,
    )
    figure.savefig(FOLDER / "heatmaps.png", dpi=110)
    objects = jmlv.Objects(data.masks[image], tuple(map(int, data.object_labels[image])))
    matrix = jmlv.relation_matrix(graphs["linf"], chosen.x, objects, strategy=STRATEGY)
    figure = jmlv.plotting.relation_figure(matrix, title="double_digits_linf")
    figure.savefig(FOLDER / "relations.png", dpi=110)


if __name__ == "__main__":
    main()
