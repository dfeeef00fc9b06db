"""`python -m impl.models.rag "…"`: a question to the Python manual."""

from .manual import main

if __name__ == "__main__":
    main()
