"""How long a test waits for a condition. It measures nothing: a wait ends as soon as the condition holds, so a
large limit costs a passing test nothing, and only a broken one waits that long."""

PATIENCE_S = 300.0  # next to compilers of a higher priority Python was seen to take over 120 s to start

# The limits of a real service whose tests are not about them: on a very busy machine the defaults are exceeded,
# and a stream without a reader for 30 s ends, as it should.
LIMITS = {"resume_grace_s": str(PATIENCE_S), "stream_ttl_s": str(10 * PATIENCE_S), "queue_timeout_s": str(PATIENCE_S)}
