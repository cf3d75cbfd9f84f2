//! Budgets of exploration. What programs and clients can observe stands in `ring3_uapi::limits`.

/// Instructions processed over all paths. Source: `BPF_COMPLEXITY_LIMIT_INSNS`.
pub(crate) const PROCESSED_INSNS_MAX: u32 = 1_000_000;
/// Paths waiting to be walked. Source: `BPF_COMPLEXITY_LIMIT_JMP_SEQ`.
pub(crate) const JMP_SEQ_MAX: u32 = 8192;
/// States kept at one instruction for a loader without CAP_BPF. Source: `BPF_COMPLEXITY_LIMIT_STATES`.
pub(crate) const STATES_MAX: u32 = 64;
/// Largest absolute offset of a pointer. Source: `BPF_MAX_VAR_OFF`.
pub(crate) const VAR_OFF_MAX: i64 = 1 << 29;
/// Largest access size. Source: `BPF_MAX_VAR_SIZ`.
pub(crate) const VAR_SIZE_MAX: u64 = 1 << 29;
/// History entries after which a checkpoint is forced. Source: `is_state_visited`.
pub(crate) const JMP_HISTORY_SOFT_MAX: usize = 40;
