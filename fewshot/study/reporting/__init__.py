"""A study's report: summaries, figures, explanations and the HTML page."""
