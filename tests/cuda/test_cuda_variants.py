import pytest, torch
from conftest import EmulatedOps
from helpers import assert_equal_to_rounding
from variants import Variant, ops_results, reference_results
CASES=[Variant(T=4,B=3,H=7), Variant(T=5,B=9,I=3,H=33,D=2,lengths=True,reset=True,learned=True,update="units",dropout=True)]
CASES += [Variant(T=4,B=3,H=7,recurrence=r,D=2,lengths=True,reset=True,learned=True,update="rows",dropout=True) for r in ("reset_before","norm_recurrent","norm_sum")]
@pytest.mark.parametrize("case", CASES, ids=str)
def test_f64(case, regime):
    a=case.arguments(); c=case.cotangents()
    assert_equal_to_rounding(ops_results(a,c), reference_results(a,c), eps=1e-12)
