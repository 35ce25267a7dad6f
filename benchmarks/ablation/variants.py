"""What is compared: each variant is a few changes of the recipe demo-5-videos."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """`changes` as `dynfocus train --set` takes them. Of the first rank are those that several seeds are run of."""

    name: str
    label: str
    changes: tuple[str, ...] = ()
    first_rank: bool = False


# Of every variant, in place of the recipe's 800 steps: all runs together then take an hour and a half on two cores.
SCHEDULE = ("schedule.steps=500",)
BASE = "2/40"

VARIANTS = (
    Variant(BASE, "rods and cones", first_rank=True),
    Variant("0/38", "cones only", ("connector.rods=false",), first_rank=True),
    Variant("2/0", "rods only", ("connector.cones=none",), first_rank=True),
    Variant("2/2", "rods, and cones averaged", ("connector.cones=average",), first_rank=True),
    Variant(
        "uniform",
        "9 frames evenly apart, each in full, nothing of the others",
        ("data.num_frames=9", "connector.key_ratio=1.0"),
        first_rank=True,
    ),
    Variant("random", "key frames at random", ("connector.selection=random",), first_rank=True),
    Variant("hard", "hard top-k, no gradient to the scorer", ("connector.selection_gradient=none",), first_rank=True),
    Variant("2/all", "cones, and what rods read, of all patches", ("connector.spatial_levels=[[144, 8]]",)),
    Variant("k-means", "events by k-means", ("connector.temporal=kmeans",)),
    Variant("diagonal", "diagonal gradient", ("connector.selection_gradient=diagonal",)),
    Variant("frame queries", "rods ask with the Q-Former's view of each frame", ("connector.text_queries=frame",)),
    Variant("L 8", "8 events, 6 key frames", ("connector.num_events=8", "connector.key_ratio=0.75")),
    Variant("L 25", "25 events, 6 key frames", ("connector.num_events=25", "connector.key_ratio=0.24")),
    Variant("K 3", "16 events, 3 key frames", ("connector.key_ratio=0.1875",)),
    Variant("K 13", "16 events, 13 key frames: the paper's 0.8", ("connector.key_ratio=0.8",)),
    Variant("over patches", "distances over patches, as the paper has it", ("connector.temporal_scale=patches",)),
)


def variant(name: str) -> Variant:
    """Raises KeyError for an unknown name."""
    return {each.name: each for each in VARIANTS}[name]
