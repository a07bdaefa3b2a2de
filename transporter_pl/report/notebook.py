"""An explanation in a notebook's cell: no file, no script, no style of the page's leaks out."""

from __future__ import annotations

import base64
import tempfile
from html import escape
from pathlib import Path

from torch import Tensor

from transporter_pl.explain.explanation import Explanation
from transporter_pl.report.figures import INK, NEGATIVE, POSITIVE
from transporter_pl.report.page import figure, sentence, summary
from transporter_pl.report.video import write_video

# a ground of its own: what colour a notebook's is can't be known
STYLE = f"""
.transporter {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 76rem; padding: 1rem 1.25rem;
  color: {INK}; background: #fbfaf7; border: 1px solid #e2ded5; border-radius: 14px; }}
.transporter p {{ margin: .4rem 0; }}
.transporter .negative {{ color: {NEGATIVE}; }} .transporter .positive {{ color: {POSITIVE}; }}
.transporter .shots {{ display: flex; flex-wrap: wrap; gap: 1rem; margin: .8rem 0; }}
.transporter figure {{ width: 11rem; margin: 0; }}
.transporter video {{ display: block; width: 100%; background: #000; border-bottom: 3px solid var(--c); }}
.transporter figcaption p {{ font-size: .85rem; line-height: 1.35; }}
.transporter .phi {{ font-weight: 600; }} .transporter .says {{ font-style: italic; }}
.transporter .share {{ display: flex; gap: .4rem; align-items: center; }}
.transporter meter {{ flex: 1; min-width: 2rem; height: .5rem; border: 0; border-radius: 99px; background: none;
  appearance: none; }}
.transporter meter::-webkit-meter-inner-element {{ display: block; }}
.transporter meter::-webkit-meter-bar {{ background: #e2ded5; border: 0; border-radius: 99px; height: .5rem; }}
.transporter meter::-webkit-meter-optimum-value {{ background: var(--c); border-radius: 99px; }}
@supports (-moz-appearance: none) {{ .transporter meter {{ background: #e2ded5; }} }}
.transporter meter::-moz-meter-bar {{ background: var(--c); border-radius: 99px; }}
.transporter .small {{ font-size: .85rem; color: #6a665f; }}
"""


def notebook_html(explanation: Explanation) -> str:
    """The clips, what the VLM says of them, and whether it moved, as HTML that holds the videos themselves."""
    word = explanation.pair.positive
    shots = "\n".join(figure(sample, _data(sample.video, explanation.fps), word) for sample in explanation.samples)
    warnings = "".join(f"<p><strong>{escape(text)}.</strong></p>" for text in explanation.warnings)
    return f"""<div class="transporter"><style>{STYLE}</style>
<p>{sentence(explanation)}</p>
<div class="shots">{shots}</div>
<p>{escape(explanation.sentence)}</p>{warnings}
<p class="small">{escape(summary(explanation))}</p></div>"""


def _data(video: Tensor, fps: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_video(file, video, fps)
        return f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"
