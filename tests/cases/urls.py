"""Inputs given as addresses

`https://` addresses of portraits, voices and manifests: followed to public hosts only, within limits, and
told without their queries, which may be signatures. The message names the input and the address, says this,
and that nothing was sent or spent.
"""

CASES = (
    ("http:// instead of https://", "only https:// addresses are read, and this is http://"),
    ("file:///etc/passwd", "is given as a 'file' address, which is not read"),
    ("ftp://", "is given as a 'ftp' address, which is not read"),
    ("no host, spaces or control characters in it", "it is not a URL"),
    ("a user name in it", "its link carries a user name, or no host"),
    ("a port above 65535", "its link names a port that does not exist"),
    ("this machine, by number or by name", "its link leads to a private address"),
    ("a private network", "its link leads to a private address"),
    ("a cloud's metadata server", "its link leads to a private address"),
    (
        "a private address spelled in decimal, octal, hexadecimal, short or wide",
        "its link leads to a private address",
    ),
    ("an IPv4 address inside an IPv6 one", "its link leads to a private address"),
    ("a public name that resolves to a private address", "its link leads to a private address"),
    ("a redirect to a private address", "its link leads to a private address"),
    ("a redirect from https to http", "its link is not https"),
    ("redirects without end", "more than 5 redirects"),
    ("a name that does not resolve", "could not be fetched: its name does not resolve"),
    ("a name longer than DNS allows", "could not be fetched: its name does not resolve"),
    ("a server that is down", "could not be fetched: connecting failed"),
    ("a certificate for another name", "could not be fetched: its certificate does not prove its name"),
    ("not there, or its link expired", "its link is no longer valid (404)"),
    ("a server that fails", "could not be fetched: status 503"),
    ("larger than is read, and says so", "it is larger than 50000 bytes"),
    ("larger than is read, and says nothing", "it is larger than 50000 bytes"),
    ("shorter than it says", "could not be fetched: it was cut"),
    ("a byte now and then", "it had not arrived after 0.3 s"),
    ("nothing at all", "could not be fetched: an empty answer"),
    ("a web page (a login, perhaps) with an image's name", "a page of text came instead of a portrait"),
    ("packed (gzip), though nobody asked for it", "it came packed, although that was not asked for"),
    ("an answer that is no HTTP", "could not be fetched: it was cut, or speaks no HTTP"),
    ("headers without end", "could not be fetched: it was cut, or speaks no HTTP"),
)
