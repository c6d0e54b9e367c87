"""console: the pages: what stands, per model, per prediction. Rendered here, read only, nothing from outside."""

from penstock.console.pages import Sight, pages

__all__ = ["Sight", "pages"]
