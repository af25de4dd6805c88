"""Pages of topics that want more than the generic page: a `TITLE` and `page(desk, demo, generate)` in each module.

A topic page knows its topic, the kinds and the roles of settings, never a method's name.
"""
