"""Many runs side by side: which settings, what came of them, tables and a page about it."""
