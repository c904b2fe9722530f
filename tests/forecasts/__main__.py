"""Published runs, each predicted without itself, as a table.

python -m tests.forecasts
"""

from tests.forecasts.leave_one_out import forecasts, table

for one in forecasts():
    print(
        f"{one.quantity:18} {one.error:+7.1%} {'inside' if one.is_inside else 'OUTSIDE':8} {one.corpus:12} {one.name}"
    )
print(f"\n{'':18} {'runs':>4} {'error':>6} {'bias':>7} {'inside':>7}")
for row in table():
    print(f"{row.quantity:18} {row.runs:4} {row.mean_abs_error:6.1%} {row.bias:+7.1%} {row.coverage:7.0%}")
