//! Optional CPU features that change which instructions are chosen.

/// Which optional instructions may be used. All off is the baseline of every x86-64 CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// SHLX, SHRX, SARX, RORX, MULX.
    pub bmi2: bool,
    /// MOVBE.
    pub movbe: bool,
}

impl CpuFeatures {
    /// None.
    pub const BASELINE: CpuFeatures = CpuFeatures {
        bmi2: false,
        movbe: false,
    };

    /// What this CPU has.
    pub fn detect() -> CpuFeatures {
        CpuFeatures {
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            movbe: std::arch::is_x86_feature_detected!("movbe"),
        }
    }
}

impl Default for CpuFeatures {
    fn default() -> Self {
        CpuFeatures::detect()
    }
}
