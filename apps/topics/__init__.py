"""Pages of topics that want more than the generic page: each module here has a `TITLE` and `page(desk, demo, generate)`.

A topic page knows its topic, the kinds and the roles of settings, never a method's name.
"""
