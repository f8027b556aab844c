"""Commands: parse, call, report. The work is in the stages and is tested without them."""
