"""One kernel as one compiler made it for one architecture, and the rules it must keep."""

from dataclasses import dataclass

SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}  # bytes of shared memory that one block can have
SHARED_OF_SM = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
SHARED_RESERVED = 1024  # bytes per block that the system takes
REGISTERS_OF_SM = 65536
WARPS_OF_SM = 64
BLOCKS_OF_SM = 32


@dataclass(frozen=True)
class Row:
    """A configuration: what `kernel` becomes when `call` launches it."""

    op: str
    call: str
    kernel: str
    what: str  # the first paragraph of the kernel's docstring
    arch: str  # sm_80 or sm_90
    compiler: str  # name and version
    identity: str  # the same for what was compiled the same way
    warps: int  # of a block
    registers: int  # of a thread
    stack: int  # bytes of a thread
    shared: int  # bytes of a block
    matrix: str  # HGMMA, HMMA or ""
    wide: int  # 16-byte accesses of global memory
    local: int
    local_in_main_loop: int
    multiplies: bool  # the source has matrix products
    moves_much: bool  # an argument is a large tensor with rows of whole 16 bytes
    overflows: tuple[str, ...]  # where a 32-bit offset can overflow

    @property
    def name(self) -> str:
        return f"{self.call}: {self.kernel}"

    def broken_rules(self) -> list[str]:
        """What no budget can allow."""
        broken = [f"32-bit address: {overflow}" for overflow in self.overflows]
        if self.shared > SHARED_LIMIT[self.arch]:
            broken.append(
                f"{self.shared} bytes of shared memory, {self.arch} has {SHARED_LIMIT[self.arch]} for a block"
            )
        if self.local_in_main_loop:
            broken.append(f"{self.local_in_main_loop} instructions on local memory in the main loop")
        if self.multiplies and not self.matrix:
            broken.append("matrix products without HMMA or HGMMA")
        if self.moves_much and not self.wide:
            broken.append("no 16-byte access of global memory")
        return broken

    @property
    def blocks_per_sm(self) -> int:
        """How many blocks fit one streaming multiprocessor, by registers, shared memory and warps.

        Registers are given out by 256 per warp, and a quarter of them belongs to each of the four schedulers.
        """
        per_warp = -(-self.registers * 32 // 256) * 256
        by_registers = 4 * (REGISTERS_OF_SM // 4 // per_warp) // self.warps
        by_shared = SHARED_OF_SM[self.arch] // (self.shared + SHARED_RESERVED)
        return min(by_registers, by_shared, WARPS_OF_SM // self.warps, BLOCKS_OF_SM)
