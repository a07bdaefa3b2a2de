"""The paper's tables: who draws what, how it is measured, and how it is written down."""
