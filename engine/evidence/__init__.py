"""Where the model looked, as files, pictures and plots."""
