//! Faults of the scalar domain that the oracle must find: compiled in with the feature `plants`, off by default.

use ring3_verifier::domain::plant::{Plant, set};

/// Names of all faults.
pub fn names() -> impl Iterator<Item = &'static str> {
    Plant::ALL.iter().map(|plant| plant.name())
}

/// From now on the domain has this fault, and no other.
///
/// # Errors
/// No fault of this name.
pub fn plant(name: &str) -> Result<(), String> {
    let found = Plant::ALL.iter().find(|plant| plant.name() == name);
    let plant = found.ok_or(format!("no fault '{name}': see --plant list"))?;
    set(Some(*plant));
    Ok(())
}
