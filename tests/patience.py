"""How long a test waits for what has to come. Nothing is timed by it: a wait ends as soon as the condition holds, so a
large limit costs a passing test nothing, and only a broken one waits so long."""

PATIENCE_S = 300.0  # beside compilers of a higher priority Python was seen to take over 120 s to start

# The limits of a real service whose tests are not about them: a machine that is busy beyond measure reaches the
# defaults, and a stream that nobody came back to within 30 s ends as it should.
LIMITS = {"resume_grace_s": str(PATIENCE_S), "stream_ttl_s": str(10 * PATIENCE_S), "queue_timeout_s": str(PATIENCE_S)}
