"""The one port: notebooks as apps, the API, who may enter, and from where."""
