"""Snakemake wrapper: masks of an image, or of a folder of images.

The folder of masks is a parameter: Snakemake deletes the declared outputs of a job that fails, and
nothing would be left to resume. Declared is only a file that is written when all masks are.
"""

from pathlib import Path
from shlex import quote

from snakemake.shell import shell

job = snakemake  # type: ignore[name-defined]  # noqa: F821  # Snakemake puts it here
log = job.log_fmt_shell(stdout=True, stderr=True)
model = job.params.get("model", "")
words = ["embedseg-large", "segment", job.input[0], "--out", job.params.masks]
words += ["--model", model] if model else []
command = " ".join(quote(str(word)) for word in words)
extra = job.params.get("extra", "")

shell("{command} {extra} {log}")
Path(job.output[0]).touch()
