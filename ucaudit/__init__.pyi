from ucaudit.packs.guard import guard as guard

__all__: list[str]
__version__: str
