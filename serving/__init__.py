"""An engine over HTTP: `medfocus serve`."""
