//! Faults that oracles plant into the transfer functions, one at a time, to prove that they would be seen.
//!
//! With the feature `plants` (off by default) [`set`] chooses a fault; without it [`planted`] is false for the compiler already.
//! Neighbours: each transfer function asks for its own; `fuzz verifier --plant` in the test kit chooses.

#[cfg(feature = "plants")]
use core::sync::atomic::{AtomicU8, Ordering};

macro_rules! plants {
    ($($plant:ident = $name:literal,)*) => {
        /// A fault of one transfer function.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "each is described by its name and at the place it is planted")]
        #[repr(u8)]
        pub enum Plant {
            $($plant,)*
        }

        impl Plant {
            /// Every fault.
            pub const ALL: &[Plant] = &[$(Plant::$plant,)*];

            /// Its name for the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Plant::$plant => $name,)*
                }
            }
        }
    };
}

plants! {
    TnumRange = "tnum_range",
    TnumOnlyMember = "tnum_only_member",
    TnumLshift = "tnum_lshift",
    TnumRshift = "tnum_rshift",
    TnumArshift = "tnum_arshift",
    TnumArshiftHalf = "tnum_arshift_half",
    TnumAdd = "tnum_add",
    TnumSub = "tnum_sub",
    TnumAnd = "tnum_and",
    TnumOr = "tnum_or",
    TnumXor = "tnum_xor",
    TnumMul = "tnum_mul",
    TnumUnion = "tnum_union",
    TnumIntersect = "tnum_intersect",
    TnumTruncate = "tnum_truncate",
    TnumWithSubreg = "tnum_with_subreg",
    TnumBswap16 = "tnum_bswap16",
    TnumBswap32 = "tnum_bswap32",
    TnumBswap64 = "tnum_bswap64",
    Range64SignedOfUnsigned = "range64_signed_of_unsigned",
    Range32SignedOfUnsigned = "range32_signed_of_unsigned",
    Range64ByBits = "range64_by_bits",
    Range32ByBits = "range32_by_bits",
    Range64Intersect = "range64_intersect",
    Range32Intersect = "range32_intersect",
    Range32Fit = "range32_fit",
    Range64AddSigned = "range64_add_signed",
    Range32AddSigned = "range32_add_signed",
    Range64AddUnsigned = "range64_add_unsigned",
    Range32AddUnsigned = "range32_add_unsigned",
    Range64Sub = "range64_sub",
    Range32Sub = "range32_sub",
    Range64MulUnsigned = "range64_mul_unsigned",
    Range32MulUnsigned = "range32_mul_unsigned",
    Range64MulSigned = "range64_mul_signed",
    Range32MulSigned = "range32_mul_signed",
    Range64Lsh = "range64_lsh",
    Range32Lsh = "range32_lsh",
    Range64Rsh = "range64_rsh",
    Range32Rsh = "range32_rsh",
    Range64Arsh = "range64_arsh",
    Range32Arsh = "range32_arsh",
    SyncHalfOfFull = "sync_half_of_full",
    SyncHalfOfRun = "sync_half_of_run",
    SyncHalfAcrossZero = "sync_half_across_zero",
    SyncFullOfHalf = "sync_full_of_half",
    SyncSignExtended = "sync_sign_extended",
    SyncBits = "sync_bits",
    SyncSigned64 = "sync_signed64",
    SyncSigned32 = "sync_signed32",
    SyncUnsigned64 = "sync_unsigned64",
    SyncUnsigned32 = "sync_unsigned32",
    SyncAcross64 = "sync_across64",
    SyncAcross32 = "sync_across32",
    ZeroExtend = "zero_extend",
    Coerce = "coerce",
    CoerceHalf = "coerce_half",
    SignExtend = "sign_extend",
    SignExtendMixed = "sign_extend_mixed",
    SignExtendHalf = "sign_extend_half",
    SignExtendHalfUnknown = "sign_extend_half_unknown",
    Fork64 = "fork64",
    Fork32 = "fork32",
    Div = "div",
    Mod = "mod",
    ShiftUnknown = "shift_unknown",
    Neg = "neg",
    Alu32KeepsHigh = "alu32_keeps_high",
    SubOfKnown = "sub_of_known",
    ArshOfKnown = "arsh_of_known",
    AndMax = "and_max",
    OrMin = "or_min",
    XorMax = "xor_max",
    BitwiseKnown = "bitwise_known",
    Lsh32 = "lsh32",
    RshHalf = "rsh_half",
    ArshHalf = "arsh_half",
    EndianKeepsRanges = "endian_keeps_ranges",
    TakenEqual32 = "taken_equal32",
    TakenSet = "taken_set",
    RefineByItself = "refine_by_itself",
    RefineEq32 = "refine_eq32",
    RefineEq64 = "refine_eq64",
    RefineClear = "refine_clear",
    RefineSet = "refine_set",
    RefineBits32 = "refine_bits32",
    Disjoint64 = "disjoint64",
    Disjoint32 = "disjoint32",
    TakenOrder64 = "taken_order64",
    TakenOrder32 = "taken_order32",
    RefineLe64 = "refine_le64",
    RefineLe32 = "refine_le32",
    RefineSle64 = "refine_sle64",
    RefineSle32 = "refine_sle32",
    RefineLt64 = "refine_lt64",
    RefineLt32 = "refine_lt32",
    RefineSlt64 = "refine_slt64",
    RefineSlt32 = "refine_slt32",
    Exclude64 = "exclude64",
    Exclude32 = "exclude32",
}

#[cfg(feature = "plants")]
static CURRENT: AtomicU8 = AtomicU8::new(u8::MAX);

/// Plants a fault, instead of any other.
#[cfg(feature = "plants")]
pub fn set(plant: Option<Plant>) {
    CURRENT.store(
        plant.map_or(u8::MAX, |plant| plant as u8),
        Ordering::Relaxed,
    );
}

/// Whether the fault is planted.
#[cfg(feature = "plants")]
#[inline]
pub(super) fn planted(plant: Plant) -> bool {
    CURRENT.load(Ordering::Relaxed) == plant as u8
}

/// Whether the fault is planted.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub(super) const fn planted(_: Plant) -> bool {
    false
}

/// Whether some fault is planted.
#[inline(always)]
pub(super) fn any_planted() -> bool {
    #[cfg(feature = "plants")]
    return CURRENT.load(Ordering::Relaxed) != u8::MAX;
    #[cfg(not(feature = "plants"))]
    false
}

/// Whether the fault of the whole register's width, or that of the half's, is planted.
#[inline(always)]
pub(super) fn planted_at<const B: u32>(full: Plant, half: Plant) -> bool {
    planted(if B == 64 { full } else { half })
}
