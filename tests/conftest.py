"""Set up the test process: one thread, so that sums have a fixed order, no telemetry, and a working Ctrl-C."""

import os
import signal

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# A shell makes background processes ignore Ctrl-C, and the processes that tests start would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
