"""The console in the browser, at `/console/`: static files, and the route that serves them.

`files/` is what runs in the browser: ES modules, one style sheet and one page, without a framework
and without a build step. They use the HTTP API and nothing else.
"""
