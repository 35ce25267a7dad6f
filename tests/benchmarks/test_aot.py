"""Does `make aot` see what it should? Listings, intervals and budgets; and two small kernels compiled for real."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from benchmarks.aot import budget, cubin, table
from benchmarks.aot.__main__ import judge, report
from benchmarks.aot.compile import NoGpu, check_reading, distinct, driver, row
from benchmarks.aot.rows import Row
from benchmarks.aot.shapes import Call, calls
from dynfocus_ops.backends import TRITON_OPS
from dynfocus_ops.triton.dot import dot
from dynfocus_ops.triton.launch import Launch

ROW = Row(
    op="dpc_knn",
    call="dpc_knn 1×1000×22528 bf16",
    kernel="density",
    what="log-densities",
    arch="sm_80",
    compiler="triton 3.9.0",
    identity="a",
    warps=8,
    registers=168,
    stack=0,
    shared=81920,
    matrix="HMMA",
    wide=30,
    local=0,
    local_in_main_loop=0,
    multiplies=True,
    moves_much=True,
    overflows=(),
)
BUDGET = budget.updated([ROW], {})

USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function density:
  REG:153 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:608 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = """
	code for sm_90a
		Function : density
        /*0000*/                   LDC R1, c[0x0][0x28] ;              /* 0x00000a00ff017b82 */
        /*0010*/                   STL [R1], R4 ;                      /* 0x0000000401007387 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ; /* 0x0000000002057fae */
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ; /* 0x01e00000041879f0 */
        /*0040*/              @!P5 BRA 0x20 ;                          /* 0xfffffff80028d947 */
        /*0050*/                   LDL R4, [R1] ;                      /* 0x0000000001047983 */
        /*0060*/               @P0 BRA 0x50 ;                          /* 0xffffffdc00f80947 */
        /*0070*/                   LDG.E R8, [R2.64] ;                 /* 0x0000000402087981 */
        /*0080*/                   BRA 0x80;                           /* 0xfffffffc00fc7947 */
"""


def test_reads_a_listing() -> None:
    (kernel,) = cubin.read(USAGE, SASS)
    assert kernel == cubin.Kernel(
        name="density",
        registers=153,
        stack=16,
        shared=1024,
        matrix="HGMMA",
        wide=1,
        local=2,
        local_in_main_loop=0,
        instructions=9,
    )


@pytest.mark.parametrize(
    ("sass", "count"),
    [
        (SASS.replace("BRA 0x20 ;", "BRA 0x10 ;"), 1),  # the product's loop now holds the STL
        (SASS.replace("HGMMA.64x128x16", "FFMA"), 0),  # without products, the loop that reads global memory counts
        (SASS.replace("HGMMA.64x128x16", "FFMA").replace("BRA 0x20 ;", "BRA 0x10 ;"), 1),
        (SASS.replace("BRA 0x50 ;", "BRA 0x0 ;"), 0),  # an outer loop round it
        (SASS.replace("@!P5 BRA 0x20 ;", "BRA.U UP0, 0x20 ;").replace("BRA 0x50", "BRA 0x20"), 1),  # one loop, two ways
        (SASS.replace("@!P5 BRA 0x20 ;", "@!P5 BRA 0x60 ;").replace("@P0 BRA 0x50 ;", "BRA 0x50 ;"), 0),  # no way back
    ],
    ids=["in the loop", "no products", "no products, in the loop", "outer loop", "two ways round", "no loop"],
)
def test_finds_local_memory_in_main_loops(sass: str, count: int) -> None:
    (kernel,) = cubin.read(USAGE, sass)
    assert kernel.local_in_main_loop == count


def test_what_keeps_the_budget_passes(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = judge([ROW], BUDGET)
    assert verdicts == {ROW: "ok"} and report(verdicts, BUDGET, everything=True) == 0
    assert "sm_80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"registers": 169}, "registers 169, budget 168"),
        ({"stack": 8}, "stack 8, budget 0"),
        ({"shared": 90000}, "shared 90000, budget 81920"),
        ({"local": 2}, "local 2, budget 0"),
        ({"local": 2, "local_in_main_loop": 1}, "1 instructions on local memory in the main loop"),
        ({"matrix": ""}, "matrix products without HMMA or HGMMA"),
        ({"matrix": "HGMMA"}, "matrix instructions HGMMA, budget HMMA"),
        ({"wide": 0}, "no 16-byte access of global memory"),
        ({"shared": 167000}, "167000 bytes of shared memory, sm_80 has 166912"),
        ({"overflows": ("a.py:3: too far",)}, "32-bit address: a.py:3: too far"),
        ({"kernel": "new"}, "no entry in the budget"),
        ({"arch": "sm_90"}, "no entry in the budget"),
    ],
    ids=str,
)
def test_a_breach_is_caught(change: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = replace(ROW, **change)  # type: ignore[arg-type]
    verdicts = judge([row], BUDGET)
    assert verdicts[row].startswith("BREACH") and said in verdicts[row]
    assert report(verdicts, BUDGET, everything=False) == 1
    assert f"{row.name}, {row.arch}, triton 3.9.0: BREACH" in capsys.readouterr().out


def test_a_lowered_budget_is_a_breach() -> None:
    lowered = budget.updated([replace(ROW, registers=160)], {})
    assert judge([ROW], lowered)[ROW] == "BREACH: registers 168, budget 160"


def test_an_unknown_compiler_has_rules_and_no_budget() -> None:
    newer = replace(ROW, compiler="triton 9.9.9", registers=255)
    spilled = replace(newer, local=4, local_in_main_loop=4)
    verdicts = judge([newer, spilled], BUDGET)
    assert verdicts[newer] == "no budget for this compiler" and verdicts[spilled].startswith("BREACH")


def test_a_budget_for_nothing_is_a_breach(capsys: pytest.CaptureFixture[str]) -> None:
    two = budget.updated([ROW, replace(ROW, kernel="old")], {})
    assert report(judge([ROW], two), two, everything=True) == 1
    assert "nothing launches it" in capsys.readouterr().out


def test_budget_file_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "budget.json"
    budget.save(BUDGET, file)
    assert budget.load(file) == BUDGET and budget.breaches(ROW, budget.load(file)) == []


def test_page_has_every_kernel_and_architecture() -> None:
    page = table.page([ROW, replace(ROW, arch="sm_90", matrix="HGMMA"), replace(ROW, compiler="triton 3.6.0", stack=8)])
    assert "| call | kernel | arch | triton 3.9.0 | triton 3.6.0 |" in page
    assert "| `density` | sm_80 | 168 · 80 KiB · 8 w · HMMA | 168 · 80 KiB · 8 w · HMMA · 8 B stack |" in page


def test_blocks_per_multiprocessor() -> None:
    assert replace(ROW, registers=168, warps=10, shared=152960).blocks_per_sm == 1
    assert replace(ROW, registers=128, warps=8, shared=0).blocks_per_sm == 2
    assert replace(ROW, registers=32, warps=4, shared=49152).blocks_per_sm == 3  # 164 KB of shared memory
    assert replace(ROW, registers=32, warps=4, shared=0).blocks_per_sm == 16  # 64 warps


def test_every_op_is_compiled() -> None:
    assert {call.op for call in calls()} >= TRITON_OPS
    names = [call.name for call in calls()]
    assert len(set(names)) == len(names)


@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr, rows, columns, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """A column of tiles of a product."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    if WIDE:
        i = i.to(tl.int64)
    j = tl.arange(0, SIZE)
    sums = tl.zeros((SIZE, SIZE), tl.float32)
    for k in range(0, columns, SIZE):
        a = tl.load(a_ptr + i[:, None] * columns + (k + j)[None, :])
        sums = dot(a, tl.load(b_ptr + (k + j)[:, None] * SIZE + j[None, :]), sums)
    tl.store(out_ptr + i[:, None] * SIZE + j[None, :], sums)


def compiled(rows: int = 64, columns: int = 1024, wide: bool = True, **options: int) -> Row:
    shape = {"dtype": torch.bfloat16, "device": "meta"}
    a, b, out = (torch.empty(size, **shape) for size in ((rows, columns), (columns, 64), (rows, 64)))
    driver.set_active(NoGpu(80))
    launch = Launch(product_kernel, (rows // 64,), (a, b, out, rows, columns), {"SIZE": 64, "WIDE": wide, **options})
    return row(Call("product", "product", "64×1024", torch.bfloat16, ()), 80, launch)


def test_compiles_without_a_gpu() -> None:
    product = compiled(rows=64 * 512)
    assert product.arch == "sm_80" and product.compiler == f"triton {triton.__version__}"
    assert product.what == "A column of tiles of a product." and product.warps == 4
    assert product.matrix == "HMMA" and product.multiplies and product.moves_much and product.wide > 0
    assert product.shared >= 2 * 64 * 64 * 2 and product.broken_rules() == []


def test_a_spilled_kernel_breaks_a_rule() -> None:
    spilled = compiled(maxnreg=40)
    assert spilled.registers <= 40 and spilled.stack > 0
    assert any("local memory in the main loop" in rule for rule in spilled.broken_rules())


def test_a_32_bit_offset_that_can_overflow_breaks_a_rule() -> None:
    narrow = compiled(rows=2**22, wide=False)
    (rule,) = narrow.broken_rules()
    assert rule.startswith("32-bit address: test_aot.py:") and "arith.muli in 32 bits can reach" in rule
    assert compiled(rows=2**22).broken_rules() == compiled(rows=2**20, wide=False).broken_rules() == []


def test_what_is_compiled_the_same_way_is_one_row_with_all_its_faults() -> None:
    fits, overflows = compiled(rows=2**20, wide=False), compiled(rows=2**22, wide=False)
    assert fits.identity == overflows.identity
    assert distinct([fits, overflows]) == [overflows]
    other = compiled(num_warps=8)
    assert [found.kernel for found in distinct([fits, other])] == ["product_kernel", "product_kernel 2"]


def test_the_reading_of_this_triton_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    check_reading(80)
    monkeypatch.setattr("benchmarks.aot.offsets.OPERATION", re.compile("nothing"))
    with pytest.raises(RuntimeError, match="finds no overflow"):
        check_reading(80)
