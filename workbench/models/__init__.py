"""The one room that names architectures: loading, sites, schedulers."""
