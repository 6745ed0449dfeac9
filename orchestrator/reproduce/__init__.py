"""The paper's tables and figures on a data set: which studies they need, and one report of what came of them."""
