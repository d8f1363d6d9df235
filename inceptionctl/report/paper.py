"""The four tables of errors of the Inception-v4 paper (arXiv 1602.07261, section 5), to compare with results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """One network of a table: errors in percent, None where the paper prints none."""

    label: str
    networks: tuple[str, ...]
    """Names in `inceptionctl models list` that are this network; for an ensemble its `ensemble_key`."""
    top1: float | None
    top5: float | None
    remark: str = ""
    protocol: str | None = None
    """If it is not the table's."""


@dataclass(frozen=True)
class PaperTable:
    """A table with its protocol and images."""

    title: str
    protocol: str
    subset: str
    num_images: int
    rows: tuple[PaperRow, ...]
    note: str = ""


BN_INCEPTION = ("bn_inception",)
INCEPTION_V3 = ("inception_v3", "inception_v3_torchvision")
INCEPTION_RESNET_V1 = ("inception_resnet_v1",)
INCEPTION_V4 = ("inception_v4", "inception_v4_tf_slim")
INCEPTION_RESNET_V2 = ("inception_resnet_v2",)  # TF-slim's is another network
RESNET_152 = ("resnet_152",)
RESNET_152_X_6 = ("ensemble: resnet_152 x 6",)
INCEPTION_V3_X_4 = ("ensemble: inception_v3 x 4",)
INCEPTION_V4_AND_RESNET_V2_X_3 = ("ensemble: inception_resnet_v2 x 3 + inception_v4",)
MISPRINT = "arXiv's figures; AAAI prints BN-Inception's 25.2 and 7.8"

TABLES = (
    PaperTable(
        "Single crop, non-blacklisted validation images (Table 2, AAAI: Table 1)",
        "single",
        "non-blacklisted",
        48_238,
        (
            PaperRow("BN-Inception", BN_INCEPTION, 25.2, 7.8),
            PaperRow("Inception-v3", INCEPTION_V3, 21.2, 5.6),
            PaperRow("Inception-ResNet-v1", INCEPTION_RESNET_V1, 21.3, 5.5),
            PaperRow("Inception-v4", INCEPTION_V4, 20.0, 5.0),
            PaperRow("Inception-ResNet-v2", INCEPTION_RESNET_V2, 19.9, 4.9),
        ),
    ),
    PaperTable(
        "10 or 12 crops, all 50,000 validation images (Table 3, AAAI: Table 2)",
        "12crop",
        "all",
        50_000,
        (
            PaperRow("ResNet-152", RESNET_152, 21.4, 5.7, f"10 crops; {MISPRINT}", "10crop"),
            PaperRow("Inception-v3", INCEPTION_V3, 19.8, 4.6),
            PaperRow("Inception-ResNet-v1", INCEPTION_RESNET_V1, 19.8, 4.6),
            PaperRow("Inception-v4", INCEPTION_V4, 18.7, 4.2),
            PaperRow("Inception-ResNet-v2", INCEPTION_RESNET_V2, 18.7, 4.1),
        ),
    ),
    PaperTable(
        "144 crops, ResNet-152 densely, all 50,000 validation images (Table 4, AAAI: Table 3)",
        "144crop",
        "all",
        50_000,
        (
            PaperRow("ResNet-152", RESNET_152, 19.4, 4.5, "dense; in the caption of AAAI's table", "dense"),
            PaperRow("Inception-v3", INCEPTION_V3, 18.9, 4.3),
            PaperRow("Inception-ResNet-v1", INCEPTION_RESNET_V1, 18.8, 4.3),
            PaperRow("Inception-v4", INCEPTION_V4, 17.7, 3.8),
            PaperRow("Inception-ResNet-v2", INCEPTION_RESNET_V2, 17.8, 3.7),
        ),
    ),
    PaperTable(
        "Ensembles, 144 crops, all 50,000 validation images (Table 5, AAAI: Table 4)",
        "144crop",
        "all",
        50_000,
        (
            PaperRow("ResNet-152 x 6", RESNET_152_X_6, None, 3.6, "dense", "dense"),
            PaperRow("Inception-v3 x 4", INCEPTION_V3_X_4, 17.3, 3.6),
            PaperRow(
                "Inception-v4 + Inception-ResNet-v2 x 3",
                INCEPTION_V4_AND_RESNET_V2_X_3,
                16.5,
                3.1,
                "AAAI prints 16.4",
            ),
        ),
        note="On the test set, measured once by the ILSVRC server, the last ensemble had a top-5 error of 3.08%: the paper's headline.",
    ),
)

FIRST_TABLE = 2
"""The paper's number of TABLES[0]; its Table 1 is of filter counts."""

# The bundled recipe of each row, by the networks of the row.
RECIPES = {
    BN_INCEPTION: "bn_inception",
    INCEPTION_V3: "inception_v3",
    INCEPTION_RESNET_V1: "inception_resnet_v1",
    INCEPTION_V4: "inception_v4",
    INCEPTION_RESNET_V2: "inception_resnet_v2",
    RESNET_152: "resnet_152",
    RESNET_152_X_6: "ensemble_resnet_152",
    INCEPTION_V3_X_4: "ensemble_inception_v3",
    INCEPTION_V4_AND_RESNET_V2_X_3: "ensemble_paper",
}


def evaluation(table: PaperTable, row: PaperRow) -> str:
    """The command that measures a row: of a run of its recipe, RUN, or of its recipe itself where that is an ensemble's."""
    if row.networks[0].startswith("ensemble:"):
        return f"inceptionctl ensemble {RECIPES[row.networks]}"
    protocol = row.protocol or table.protocol
    subset = "" if table.subset == "all" else f" --subset {table.subset}"
    return "inceptionctl evaluate RUN" + ("" if protocol == "single" else f" --protocol {protocol}") + subset


def all_rows() -> list[dict[str, str | int]]:
    """Every row in the paper's order: `table` (its number), `row`, `recipe` (a bundled one), and `evaluation`, the command."""
    return [
        {"table": number, "row": row.label, "recipe": RECIPES[row.networks], "evaluation": evaluation(table, row)}
        for number, table in enumerate(TABLES, start=FIRST_TABLE)
        for row in table.rows
    ]


def ensemble_key(networks: Iterable[str]) -> str:
    """The paper's name for an ensemble of these networks. Variants count as their network."""
    names = Counter(next((same[0] for same in (INCEPTION_V3, INCEPTION_V4) if name in same), name) for name in networks)
    return "ensemble: " + " + ".join(f"{name} x {count}" if count > 1 else name for name, count in sorted(names.items()))


def standard_error(error: float, num_images: int) -> float:
    """Binomial standard error, in percent, of an error rate in percent over `num_images`."""
    share = error / 100.0
    return 100.0 * float((share * (1.0 - share) / num_images) ** 0.5)
