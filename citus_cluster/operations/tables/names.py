"""Names of tables, columns and schemas, as parameters."""

from typing import Annotated

from pydantic import Field

MAX_NAME = 300
"""Two names of 63 bytes, quoted, with each quote doubled."""

TableName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NAME,
        description='Table, named as in SQL: orders, sales.orders, sales."Odd Name".',
        examples=["orders", 'sales."Odd Name"'],
    ),
]
ColumnName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME, description="Column, named as in SQL.", examples=["customer_id"]),
]
SchemaName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME, description="Schema, named as in SQL.", examples=["tenant_17"]),
]
