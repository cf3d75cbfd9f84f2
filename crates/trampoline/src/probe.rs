//! Static probes: places in a function where programs may look at values, at the cost of one nop of five bytes while nobody does.
//!
//! ```text
//!           nop5 | jmp on          one site per place that the compiler made of the probe, listed in a section
//!   on:     values are computed; call of a traceable function of these values; back
//! ```
//!
//! Programs are attached to the function of the probe ([`Probe::target`]) while its sites are on ([`Probe::enable`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ring3_btf::{ArgModel, FuncModel};

use crate::frame::Certainty;
use crate::site::{PatchError, Site};
use crate::target::Target;

/// A value that a probe can show: integers, `bool` and thin pointers.
pub trait ProbeValue: Copy {
    /// How the function of the probe takes it.
    const MODEL: ArgModel;
}

const fn value(bytes: usize, is_signed: bool) -> ArgModel {
    ArgModel {
        size: bytes as u8,
        is_struct: false,
        is_signed,
    }
}

macro_rules! probe_values {
    ($($ty:ty: $is_signed:literal),*) => {$(
        impl ProbeValue for $ty {
            const MODEL: ArgModel = value(size_of::<$ty>(), $is_signed);
        }
    )*};
}

probe_values!(u8: false, u16: false, u32: false, u64: false, usize: false, bool: false);
probe_values!(i8: true, i16: true, i32: true, i64: true, isize: true);

impl<T> ProbeValue for *const T {
    const MODEL: ArgModel = value(8, false);
}

impl<T> ProbeValue for *mut T {
    const MODEL: ArgModel = value(8, false);
}

/// A probe; made by [`crate::probe`].
#[derive(Debug)]
pub struct Probe {
    name: &'static str,
    module: &'static str,
    function: fn() -> *const (),
    args: &'static [ArgModel],
    /// How many keep it on, and where it is.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    enabled: usize,
    places: Vec<(Site, usize)>,
}

/// A row of the section: distances from each field to the nop, the code behind it, and the probe.
#[doc(hidden)]
#[derive(Debug)]
#[repr(C)]
pub struct __Row([i64; 3]);

impl Probe {
    #[doc(hidden)]
    pub const fn __new(
        name: &'static str,
        module: &'static str,
        function: fn() -> *const (),
        args: &'static [ArgModel],
    ) -> Probe {
        Probe {
            name,
            module,
            function,
            args,
            state: Mutex::new(State {
                enabled: 0,
                places: Vec::new(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Path of the Rust module it is in.
    pub fn module(&self) -> &'static str {
        self.module
    }

    /// Sizes and signs of its values.
    pub fn model(&self) -> FuncModel {
        FuncModel {
            args: self.args.to_vec(),
            ret: ArgModel {
                size: 0,
                ..ArgModel::U64
            },
        }
    }

    /// The probe as a function that programs are attached to; they run while the probe is on.
    ///
    /// # Errors
    /// [`PatchError`].
    pub fn target(&self) -> Result<Arc<Target>, PatchError> {
        // SAFETY: 1. the macro declared the function by `traceable`; its text is that of the crate.
        let site = unsafe { Site::of_stub((self.function)())? };
        // SAFETY: 1. the macro took the model from the types of the function's arguments.
        Ok(unsafe { Target::new(site, &self.model(), Certainty::Certain) })
    }

    /// Turns the probe on, everywhere, until the result is dropped.
    ///
    /// # Errors
    /// [`PatchError`]; the probe is as it was.
    pub fn enable(&'static self) -> Result<ProbeEnabled, PatchError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.enabled == 0 {
            for (at, (site, on)) in state.places.iter().enumerate() {
                if let Err(cause) = site.patch(None, Some(*on)) {
                    turn_off(&state.places[..at]);
                    return Err(cause);
                }
            }
        }
        state.enabled += 1;
        Ok(ProbeEnabled(self))
    }

    /// Places that the compiler made of it.
    pub fn places(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.places.len()
    }
}

fn turn_off(places: &[(Site, usize)]) {
    for (site, on) in places {
        // A place that somebody else changed stays on, which harms nobody: the function has no programs.
        let _ = site.patch(Some(*on), None);
    }
}

/// Keeps a probe on.
#[derive(Debug)]
pub struct ProbeEnabled(&'static Probe);

impl Drop for ProbeEnabled {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.enabled -= 1;
        if state.enabled == 0 {
            turn_off(&state.places);
        }
    }
}

/// The probes of a section, with their places.
///
/// # Safety
/// The range is the linker's, of rows that [`crate::probe`] wrote.
#[doc(hidden)]
pub unsafe fn __probes(
    start: *const __Row,
    stop: *const __Row,
) -> Result<Vec<&'static Probe>, PatchError> {
    let mut places: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    let mut row = start.cast::<i64>();
    while row < stop.cast() {
        // SAFETY: 1. a row is three words.
        let [nop, on, probe] = [0, 1, 2].map(|at| unsafe {
            let field = row.add(at);
            (field as usize).wrapping_add_signed(*field as isize)
        });
        places.entry(probe).or_default().push((nop, on));
        row = row.wrapping_add(3);
    }
    let mut probes = Vec::with_capacity(places.len());
    for (probe, places) in places {
        // SAFETY: 1. the macro's `static`.
        let probe: &'static Probe = unsafe { &*std::ptr::with_exposed_provenance(probe) };
        let mut state = probe.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.places.is_empty() {
            let sites = places.into_iter().map(|(nop, on)| {
                // SAFETY: 1. the macro wrote the nop, behind which nothing jumps, in the crate's text.
                unsafe { Site::at(nop) }.map(|site| (site, on))
            });
            state.places = sites.collect::<Result<_, _>>()?;
        }
        drop(state);
        probes.push(probe);
    }
    Ok(probes)
}

/// A probe: programs see the values while the probe is on. The values are computed only then.
///
/// ```
/// fn receive(packet: &[u8]) -> u32 {
///     ring3_trampoline::probe!(packet_received(length: usize = packet.len(), first: u8 = packet[0]));
///     0
/// }
/// assert_eq!(receive(b"abc"), 0);
/// let probes = ring3_trampoline::probes!()?;
/// assert_eq!(probes[0].name(), "packet_received");
/// let target = probes[0].target()?; // to attach programs to
/// let enabled = probes[0].enable()?; // they run from now on
/// # assert_eq!(receive(b"abc"), 0);
/// # Ok::<(), ring3_trampoline::PatchError>(())
/// ```
#[macro_export]
macro_rules! probe {
    ($name:ident($($arg:ident: $ty:ty = $value:expr),* $(,)?)) => {{
        $crate::traceable! {
            fn $name($($arg: $ty),*) {
                $(let _ = $arg;)*
            }
        }
        static PROBE: $crate::Probe = $crate::Probe::__new(
            stringify!($name),
            module_path!(),
            || $name as *const (),
            &[$(<$ty as $crate::ProbeValue>::MODEL),*],
        );
        // SAFETY: the nop does nothing; who turns it into a jump lets it lead to the label, from where control comes back.
        unsafe {
            ::core::arch::asm!(
                ".p2align 3",
                "772: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
                ".pushsection ring3_probes, \"aR\", @progbits",
                ".balign 8",
                ".quad 772b - .",
                ".quad {on} - .",
                ".quad {probe} - .",
                ".popsection",
                on = label { $name($($value),*); },
                probe = sym PROBE,
                options(nomem, nostack, preserves_flags),
            );
        }
    }};
}

/// The probes of this executable or shared object: `Result<Vec<&'static Probe>, PatchError>`. There must be one at least, else it does not link.
#[macro_export]
macro_rules! probes {
    () => {{
        unsafe extern "C" {
            #[link_name = "__start_ring3_probes"]
            static START: $crate::__Row;
            #[link_name = "__stop_ring3_probes"]
            static STOP: $crate::__Row;
        }
        // SAFETY: the linker's symbols of the section that `probe` writes.
        unsafe { $crate::__probes(&raw const START, &raw const STOP) }
    }};
}
