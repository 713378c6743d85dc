"""Equilibria z = f(z) and their gradients. Imports torch only.

    from ifpn.solvers import fixed_point
    z, stats = fixed_point(f, z0)

Read `fixed_point.py` first: it is the whole method. `iterate.py` holds the loop, `broyden.py`, `anderson.py`
and `picard.py` the step rules, `adjoint.py` the linear solvers of the backward pass, `equilibrium.py` what a
network holds.
"""

from ifpn.solvers.adjoint import GMRES, Neumann
from ifpn.solvers.anderson import Anderson
from ifpn.solvers.broyden import Broyden
from ifpn.solvers.budget import Budget
from ifpn.solvers.equilibrium import Equilibrium, Unroll
from ifpn.solvers.fixed_point import Forward, Implicit, OneStep, Phantom, Unrolled, fixed_point
from ifpn.solvers.iterate import solve
from ifpn.solvers.picard import Picard
from ifpn.solvers.solution import Solution, Stats, Status
from ifpn.solvers.spectral import jacobian_penalty, spectral_radius

__all__ = [
    "GMRES",
    "Anderson",
    "Broyden",
    "Budget",
    "Equilibrium",
    "Forward",
    "Implicit",
    "Neumann",
    "OneStep",
    "Phantom",
    "Picard",
    "Solution",
    "Stats",
    "Status",
    "Unroll",
    "Unrolled",
    "fixed_point",
    "jacobian_penalty",
    "solve",
    "spectral_radius",
]
