"""What the inside and the outside of a sandbox must agree on; imported on every system, so it needs none."""

READY, RAN, RAISED, TIMED_OUT, DIED = b"r", b"d", b"e", b"t", b"x"
"""How a call ended, or that the first one can come."""

HEADER = ">cII"
"""What an answer begins with: one of these, and the lengths in bytes of the reason and of the output that follow."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""What every program may use."""
