"""The HTTP API: routes and rights (docs/formats/http.md).

calls.py    the table of what can be asked: method, path, right, body, answer
routes.py   what each of them does, over a Site and the open house
app.py      from a request to an answer: who asks, may he, is it too much, what went wrong
bodies.py   bytes in and out between the event loop and threads
limits.py   how much and how often
openapi.py  the table of calls as an OpenAPI page
metrics.py  counts for Prometheus        log.py  one line of JSON for each request
tls.py      the certificate              listen.py  sockets, HTTP, the way to stop
"""
