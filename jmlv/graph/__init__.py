"""One normalised network graph, read from the jaxpr of any JAX function."""

from jmlv.graph.ir import Equation, Graph, Literal, Structure, Variable
from jmlv.graph.trace import Classifier, as_function, check, trace
