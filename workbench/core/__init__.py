"""The bookkeeping every method stands on: settings, sites, patches, reports, plans."""
