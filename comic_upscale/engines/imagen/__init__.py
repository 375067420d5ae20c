"""The engine for Imagen, a service of Google Cloud: the extra ``[imagen]``."""
