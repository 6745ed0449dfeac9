"""Pictures that people look at: grids of edited faces and curves of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, INK, ACCENT = (250, 250, 248), (40, 42, 48), (0, 110, 90)
MARGIN, GAP, HEADER, CAPTION = 14, 4, 34, 16


def face_grid(
    rows: Sequence[Sequence[np.ndarray]],
    headers: Sequence[str],
    captions: Sequence[Sequence[str]],
    made: Sequence[bool],
    path: Path,
    side: int = 96,
) -> None:
    """Write a sheet of faces as PNG.

    rows: uint8 (size, size, 3) images. headers: one a column. captions: one a face. made: whether a column holds
    synthesized faces, which get a coloured rule.
    """
    step_x, step_y = side + GAP, side + CAPTION + GAP
    width = 2 * MARGIN + len(headers) * step_x - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + len(rows) * step_y), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=10)
    for column, header in enumerate(headers):
        x = MARGIN + column * step_x
        colour = ACCENT if made[column] else INK
        draw.text((x + side / 2, MARGIN + 8), header, font=font, fill=colour, anchor="mm")
        draw.line((x, MARGIN + HEADER - 8, x + side, MARGIN + HEADER - 8), fill=colour, width=2 if made[column] else 1)
    for i, (faces, texts) in enumerate(zip(rows, captions, strict=True)):
        for column, (face, text) in enumerate(zip(faces, texts, strict=True)):
            x, y = MARGIN + column * step_x, MARGIN + HEADER + i * step_y
            sheet.paste(Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC), (x, y))
            draw.text((x + side / 2, y + side + 7), _fitted(text, small, side), font=small, fill=INK, anchor="mm")
    sheet.save(path)


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Write one panel a training, its metrics over steps, as PNG. Accuracies and gradient norms are left out."""
    from matplotlib.figure import Figure

    columns = 2
    rows = -(-len(histories) // columns)
    figure = Figure(figsize=(11, 3.2 * rows), layout="constrained")
    for i, (title, history) in enumerate(histories.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for name in history[-1]:
            steps = [row["step"] for row in history if name in row]
            if name != "step" and not name.startswith("grad_norm") and not name.endswith("accuracy"):
                axes.plot(steps, [row[name] for row in history if name in row], label=name, linewidth=1.2)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.set_yscale("symlog", linthresh=1e-3)  # a critic's loss is negative
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def distributions(counts: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Write one panel an attribute, faces by label, as PNG. The empty label is that of faces without one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4 * len(counts)), layout="constrained")
    for i, (attribute, of_labels) in enumerate(counts.items()):
        axes = figure.add_subplot(len(counts), 1, i + 1)
        shown = sorted(of_labels.items(), key=lambda item: -item[1])
        axes.bar(range(len(shown)), [count for _, count in shown], color="#006e5a", width=0.8 if len(shown) < 80 else 1)
        axes.set_title(f"faces by {attribute}: {len(shown)}", loc="left", fontsize=10)
        if len(shown) <= 60:
            axes.set_xticks(range(len(shown)), [label or "(none)" for label, _ in shown], fontsize=7)
            if len(shown) > 12:
                for text in axes.get_xticklabels():
                    text.set(rotation=60, ha="right", rotation_mode="anchor")
        axes.margins(x=0.01)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(axis="y", alpha=0.25)
    figure.savefig(path, dpi=110)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, shortened until it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
