"""Write and run the notebooks: their text and code stand here, their outputs in notebooks/.

    python scripts/build_notebooks.py [01 02 03 04]     # needs the extra packages nbformat, nbclient, ipykernel

The first code cell of each, tagged "parameters", is what the tests replace by still smaller settings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"

SOLVER = [
    "md",
    """# The solver by itself

A fixed point z = f(z) found by a root solver, and differentiated without keeping what the solver did.
Nothing here knows of images.""",
    "parameters",
    """SIZE, SAMPLES, EVALS = 64, 8, 25""",
    "code",
    """import matplotlib.pyplot as plt
import torch

from ifpn import solvers
from ifpn.solvers import Anderson, Broyden, Picard

torch.manual_seed(0)
linear = torch.nn.Linear(SIZE, SIZE)
with torch.no_grad():
    linear.weight.copy_(0.9 * torch.linalg.qr(linear.weight)[0])  # every singular value is 0.9
x = torch.randn(SAMPLES, SIZE)


def f(z):
    return torch.tanh(linear(z)) + x""",
    "md",
    """## Three ways to walk to the same point

Plain iteration shrinks the distance by the spectral radius of the Jacobian at each evaluation. Anderson and
Broyden remember where they have been.""",
    "code",
    """start = torch.zeros(SAMPLES, SIZE)
rules = {"plain": Picard(), "Anderson": Anderson(), "Broyden": Broyden()}
with torch.no_grad():
    found = {name: solvers.solve(f, start, rule, max_evals=EVALS) for name, rule in rules.items()}
radius = float(solvers.spectral_radius(f, found["Anderson"].value).median())
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, solution in found.items():
    median = solution.trace.median(dim=1).values
    axes.semilogy(range(1, len(median) + 1), median, "o-", markersize=3, label=name)
line = [0.3, 0.3 * radius ** (EVALS - 1)]
axes.semilogy([1, EVALS], line, "k:", label=f"spectral radius {radius:.2f}")
axes.set(xlabel="evaluations of f", ylabel="relative residual", title="median over the samples")
axes.grid(alpha=0.3)
axes.legend();""",
    "md",
    """## The gradient does not depend on the way there

`fixed_point` searches without autograd, evaluates f once with it, and solves a linear system in the backward
pass. Here it stands beside backpropagation through many plain evaluations, which keeps all of them in memory.""",
    "code",
    """def gradient(backward):
    z, _ = solvers.fixed_point(f, start, forward=solvers.Forward(Anderson(), 60), backward=backward)
    return torch.autograd.grad(z.square().sum(), linear.weight)[0]


z = start
for _ in range(300):
    z = f(z)
exact = torch.autograd.grad(z.square().sum(), linear.weight)[0]

budgets = list(range(1, 16))
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, solver in {"GMRES": solvers.GMRES(), "Broyden": Broyden(), "Neumann": solvers.Neumann()}.items():
    errors = [float((gradient(solvers.Implicit(solver, n)) - exact).norm() / exact.norm()) for n in budgets]
    axes.semilogy(budgets, errors, "o-", markersize=3, label=name)
axes.set_title("implicit gradient against 300 unrolled steps")
axes.set(xlabel="vector-Jacobian products", ylabel="relative error")
axes.grid(alpha=0.3)
axes.legend();""",
]

TRAIN = [
    "md",
    """# Train, and look

`python train.py recipe=quick detector=atss` on the built-in data: about five minutes on two CPU cores. `SETTINGS` makes
it another training, for instance a smaller one: `"data.generate.num_train=48"`, `"image.min_size=[128]"`.""",
    "parameters",
    """RUN = "runs/notebook"
SETTINGS = ["recipe=quick", "detector=atss", "callbacks.solver_monitor.spectral_every=20"]  # for notebook 03""",
    "code",
    """import os
import shutil
import subprocess
import sys
from pathlib import Path

from IPython.display import Image, display

os.chdir(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "train.py").is_file()))
shutil.rmtree(RUN, ignore_errors=True)
command = [sys.executable, "train.py", f"run_dir={RUN}", *SETTINGS]
done = subprocess.run(command, capture_output=True, text=True)
assert done.returncode == 0, done.stderr
display(Image(f"{RUN}/curves.png"))""",
    "md",
    """## What the detector sees

Truth left, prediction right.""",
    "code",
    """import PIL.Image

PIL.Image.open(f"{RUN}/samples.png").convert("RGB").reduce(2)""",
    "md",
    """## Did the solver find the fixed point?

Where the line does not fall, the function inside is no contraction.""",
    "code",
    """display(Image(f"{RUN}/convergence.png"))""",
    "md",
    """## A checkpoint is a detector in two lines""",
    "code",
    """import json

import ifpn
from ifpn.data import decode_image
from ifpn.plots import draw_detections

detector = ifpn.load(f"{RUN}/best.ckpt", device="cpu")
root = Path(json.loads(Path(f"{RUN}/result.json").read_text())["config"]["data"]["root"])
photo = decode_image(min(p for p in root.rglob("*") if p.suffix in (".png", ".jpg")))
draw_detections(photo, detector(photo), detector.class_names, score_threshold=0.4)""",
]

INSPECT = [
    "md",
    """# Inspect a checkpoint

Convergence, feature maps and receptive field of a trained i-FPN. Run notebook 02 first, or give a checkpoint
of your own. The same pictures come from `python report.py`.""",
    "parameters",
    """CKPT, PHOTOS = "runs/notebook/best.ckpt", "data/shapes_224_80_0"
OUT = "runs/notebook_figures"
EVALS, PRODUCTS, IMAGES, PROBES = 20, [1, 2, 3, 5, 8], 2, 2""",
    "code",
    """import os
from pathlib import Path

os.chdir(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "train.py").is_file()))""",
    "code",
    """from IPython.display import Image, display

import ifpn
from ifpn.data import decode_image
from ifpn.plots.curves import read_curves
from reproduce.equilibria import gradient_errors, radius_at
from reproduce.equilibrium_figures import draw_gradients, draw_spectrum
from reproduce.figure5 import draw_fields, draw_figure5, level_maps
from reproduce.inspect_checkpoint import equilibrium_of, inside_the_solve, solved_by
from reproduce.receptive import receptive_fields

detector = ifpn.load(CKPT, device="cpu")
files = sorted(p for p in Path(PHOTOS).rglob("*") if p.suffix in (".png", ".jpg"))[:IMAGES]
photos = [decode_image(file) for file in files]
out = Path(OUT)""",
    "md",
    """## How fast does it converge?

The spectral radius of the Jacobian at the state found: below 1, plain iteration would converge too.""",
    "code",
    """import matplotlib.pyplot as plt
import torch

from ifpn.solvers import Anderson, Broyden, Picard, solve

rules = {"plain": Picard(), "Anderson": Anderson(), "Broyden": Broyden()}


def traces(f, z0):
    return [solve(f, z0, rule, max_evals=EVALS).trace[:, 0] for rule in rules.values()]


with torch.no_grad():
    found = inside_the_solve(detector, photos[0], traces)
radius = radius_at(detector, photos[:1])[0]
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, trace in zip(rules, found, strict=True):
    axes.semilogy(range(1, len(trace) + 1), trace, "o-", markersize=3, label=name)
axes.axvline(equilibrium_of(detector).test_evals, color="grey", linestyle="--", label="budget at test time")
axes.set_title(f"first photo; spectral radius {radius:.2f}")
axes.set(xlabel="evaluations of G", ylabel="relative residual")
axes.grid(alpha=0.3)
axes.legend();""",
    "md",
    """## Did it stay a contraction while it was trained?

The spectral radius over training, as `callbacks.solver_monitor.spectral_every=20` logged it.""",
    "code",
    """draw_spectrum(read_curves(Path(CKPT).parent / "metrics.csv"), [], out / "spectrum.png")
display(Image(out / "spectrum.png", width=1000))""",
    "md",
    """## How good is the gradient?""",
    "code",
    """draw_gradients(gradient_errors(detector, photos[0], PRODUCTS), out / "gradient.png")
display(Image(out / "gradient.png", width=1000))""",
    "md",
    """## The feature maps, after one evaluation and at the equilibrium

The same weights twice: left of each pair the state after a single evaluation of G from zero, right the equilibrium.""",
    "code",
    """from dataclasses import replace

levels = ["P4", "P5", "P6"]
exact = replace(equilibrium_of(detector), fit_start=0, rtol=0.0, test_rtol=None, test_error=None)


def maps_after(evals):
    with solved_by(detector, replace(exact, test_evals=evals)):
        return [level_maps(detector, photo, levels) for photo in photos]


first, last = maps_after(1), maps_after(EVALS)
pairs = list(zip(first, last, strict=True))
draw_figure5(pairs, ("1 evaluation", "equilibrium"), out / "maps.png")
display(Image(out / "maps.png", width=1000))""",
    "md",
    """## How far does a cell see?

The gradient of one cell's features in the pixels of the input, through the equilibrium.""",
    "code",
    """fields = receptive_fields(detector, photos, levels, probes=PROBES)
draw_fields([("i-FPN", fields)], out / "field.png")
display(Image(out / "field.png", width=1000))""",
]

EXPORT = [
    "md",
    """# Out of Python, and onto a film

A trained detector as one ONNX file, run by onnxruntime alone; then a clip, each frame of which starts its solve from
the frame before, where that saves something. Run notebook 02 first, or give a checkpoint of your own. Needs
`pip install 'ifpn[export,video]'`.""",
    "parameters",
    """CKPT, PHOTOS = "runs/notebook/best.ckpt", "data/shapes_224_80_0/images"
OUT = "runs/notebook_export"
EVALS, SCENES, SECONDS, RATE, WIDTH, HEIGHT = 2, 3, 1, 12, 320, 256""",
    "code",
    """import os
from pathlib import Path

os.chdir(next(p for p in [Path.cwd(), *Path.cwd().parents] if (p / "train.py").is_file()))""",
    "code",
    """import ifpn

detector = ifpn.load(CKPT, device="cpu")
file = Path(OUT) / "detector.onnx"
metadata = detector.export(file, test_evals=EVALS)  # the same as: ifpn export ckpt=… test_evals=2
print(f"{file.stat().st_size / 2**20:.1f} MiB, {metadata['evals']} applications of G")""",
    "md",
    """## Nothing but onnxruntime

Pixels in, boxes out: resizing, network, decoding and suppression are in the file.""",
    "code",
    """import io
import json

import numpy as np
import onnxruntime
import torch
from IPython.display import Image
from PIL import Image as Photo

from ifpn.plots import draw_detections

session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
photos = sorted(p for p in Path(PHOTOS).rglob("*") if p.suffix in (".png", ".jpg"))
pixels = np.asarray(Photo.open(photos[0]).convert("RGB")).transpose(2, 0, 1).copy()
boxes, scores, labels, count = (part[0] for part in session.run(None, {"images": pixels[None]}))
found = {"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}


def shown(picture):  # as a JPEG: a notebook with PNGs is large
    picture.save(data := io.BytesIO(), "JPEG", quality=85)
    return Image(data.getvalue())


tensors = {name: torch.from_numpy(part) for name, part in found.items()}
shown(draw_detections(torch.from_numpy(pixels), tensors, names, score_threshold=detector.score_threshold))""",
    "md",
    """## The same boxes as PyTorch's

Plain iteration from the same first state, as often as the file applies G.""",
    "code",
    """from ifpn.necks import EquilibriumNeck
from ifpn.solvers import Equilibrium, Picard

neck = next(part for part in detector.detector.modules() if isinstance(part, EquilibriumNeck))
plain = Equilibrium(Picard(), test_evals=EVALS, fit_start=neck.solver.fit_start)
equilibrium, neck.solver = neck.solver, plain
eager = detector(photos[0], score_threshold=0.0)
neck.solver = equilibrium
apart = np.abs(eager.boxes.numpy() - boxes[:count]).max(initial=0) if len(eager) == count else float("nan")
print(f"{count} boxes by onnxruntime, {len(eager)} by PyTorch; largest distance {apart:.1g} px")""",
    "md",
    """## A clip

A window pans over a few pictures. What carries over from frame to frame is the pyramid.""",
    "code",
    """import runpy

import av

make_clip = runpy.run_path("scripts/make_clip.py")["make_clip"]
clip = Path(OUT) / "clip.mp4"
make_clip(photos[:SCENES], clip, seconds=SECONDS, rate=RATE, size=(WIDTH, HEIGHT))


def frames():
    with av.open(str(clip)) as film:
        for frame in film.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


with detector.stream() as stream:
    warm = [stream(frame) for frame in frames()]
cold = [detector(frame) for frame in frames()]""",
    "code",
    """import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
for label, found in (("each by itself", cold), ("from the frame before", warm)):
    axes.plot([one.solver.evals for one in found], "o-", markersize=3, label=label)
axes.set(xlabel="frame; another scene after every RATE x SECONDS", ylabel="evaluations of G", ylim=(0, None))
axes.grid(alpha=0.3)
axes.legend(loc="lower right");""",
    "md",
    """A film with boxes and a line of detections per frame: `ifpn predict ckpt=… source=clip.mp4 stream=true`.""",
    "code",
    """shown(warm[-1].draw())""",
]

NOTEBOOKS = {
    "01_solver": SOLVER,
    "02_train_and_look": TRAIN,
    "03_inspect_a_checkpoint": INSPECT,
    "04_export_and_stream": EXPORT,
}


def build(parts: list[str]) -> nbformat.NotebookNode:
    """A notebook of (kind, text) pairs in one list."""
    cells: list[Any] = []
    for i, (kind, text) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if kind == "md":
            cell = nbformat.v4.new_markdown_cell(text)
        else:
            cell = nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]} if kind == "parameters" else {})
        cell["id"] = f"cell-{i:02d}"  # the same text gives the same file
        cells.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook: nbformat.NotebookNode = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute in place, in `folder`; an error of a cell is raised."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=resources).execute()
    for cell in [c for c in notebook.cells if c.cell_type == "code"]:
        cell.metadata.pop("execution", None)  # times of day
        # Notices of libraries about the machine at hand; errors are raised above.
        cell.outputs = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]


def main() -> None:
    """Writes and runs the notebooks named on the command line, or all."""
    FOLDER.mkdir(exist_ok=True)
    for name, parts in NOTEBOOKS.items():
        if len(sys.argv) == 1 or name[:2] in sys.argv[1:]:
            notebook = build(parts)
            run(notebook, FOLDER)
            nbformat.write(notebook, FOLDER / f"{name}.ipynb")
            print(f"wrote {FOLDER / name}.ipynb")


if __name__ == "__main__":
    main()
