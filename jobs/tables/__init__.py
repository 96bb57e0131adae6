"""Tables of runs: ablation files, the state of their trials, intervals, reports and the dry run."""
