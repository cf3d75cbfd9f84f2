//! The bench programs as native code: what clang-19 -O2 without vectorisation made of the same source.

/// The context of the native programs, laid out as the start of an `xdp_buff`, which rewritten BPF programs read.
#[repr(C)]
struct Context {
    data: u64,
    data_end: u64,
}

/// A packet and a context that points to it.
pub(crate) struct Frame {
    context: Box<Context>,
    _packet: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(packet: &[u8]) -> Frame {
        let mut packet = packet.to_vec();
        let data = packet.as_mut_ptr().expose_provenance() as u64;
        Frame {
            context: Box::new(Context {
                data,
                data_end: data + packet.len() as u64,
            }),
            _packet: packet,
        }
    }

    /// The context's bytes, for engines that take memory: they outlive nothing but the frame.
    pub(crate) fn context_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.context.data.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.context.data_end.to_ne_bytes());
        bytes
    }

    /// Addresses of the packet.
    pub(crate) fn packet_range(&self) -> std::ops::Range<u64> {
        self.context.data..self.context.data_end
    }

    /// Address of the context.
    pub(crate) fn context_ptr(&mut self) -> u64 {
        std::ptr::from_mut(&mut *self.context).expose_provenance() as u64
    }
}

type Code = unsafe extern "C" fn(*mut Context) -> u32;

macro_rules! programs {
    ($($symbol:ident $name:literal),* $(,)?) => {
        unsafe extern "C" {
            $(fn $symbol(context: *mut Context) -> u32;)*
        }
        const PROGRAMS: &[(&str, Code)] = &[$(($name, $symbol)),*];
    };
}

programs! {
    native_empty "empty",
    native_alu_hash "alu_hash",
    native_murmur32 "murmur32",
    native_muldiv "muldiv",
    native_csum1500 "csum1500",
    native_headers "headers",
    native_bytes "bytes",
    native_calls3000 "calls3000",
    native_siphash "siphash",
    native_jhash "jhash",
}

/// A native program.
#[derive(Clone, Copy)]
pub(crate) struct Native(Code);

impl Native {
    /// The program with this name.
    pub(crate) fn find(name: &str) -> Option<Native> {
        PROGRAMS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, code)| Native(code))
    }

    /// One run.
    pub(crate) fn run(self, frame: &mut Frame) -> u32 {
        // SAFETY: 1. the programs of programs/pure.c take a context whose two words bound a packet, and read nothing outside of it; 2. the
        // frame keeps the packet alive.
        unsafe { (self.0)(&raw mut *frame.context) }
    }
}
