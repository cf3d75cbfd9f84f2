//! The words that rows of contexts are written in.
//!
//! A file of rows has the conversions first (one constant per sequence, recorded from `xlated` of Linux 6.18 by loading an access to
//! every field and naming each offset by the kernel's BTF), then the rows that several views share, then the views. `Ctx` is the
//! register that holds the context, `Dst` the one loaded into, `Val` what is stored; jumps count steps. Sizes were probed over every
//! (program type, attach type, offset, size, load or store); a test compares the rows with the recorded answers
//! (fixtures/oracle/spec/ctx.txt).

use ring3_uapi::AttachType;

use super::{CtxField, CtxReg, Narrow, Operation, Place, Sizes, Step, Who, Width};
use crate::grants::AttachSet;

pub(super) const fn at(type_name: &'static str, field: &'static str, plus: i16) -> Place {
    Place {
        type_name,
        field,
        plus,
        indexed: false,
    }
}

pub(super) const fn load(bytes: u8, dst: Who, base: Who, place: Place) -> Step {
    Step::Load {
        bytes,
        dst,
        base,
        place,
    }
}

pub(super) const fn store(bytes: u8, base: Who, place: Place, src: Who) -> Step {
    Step::Store {
        bytes,
        base,
        place,
        src,
    }
}

pub(super) const fn alu_imm(width: Width, op: Operation, dst: Who, imm: i32) -> Step {
    Step::AluImm {
        width,
        op,
        dst,
        imm,
    }
}

pub(super) const fn alu_reg(width: Width, op: Operation, dst: Who, src: Who) -> Step {
    Step::AluReg {
        width,
        op,
        dst,
        src,
    }
}

pub(super) const fn jump(width: Width, op: Operation, reg: Who, imm: i32, skip: u8) -> Step {
    Step::JumpImm {
        width,
        op,
        reg,
        imm,
        skip,
    }
}

pub(super) const fn skip(steps: u8) -> Step {
    Step::Skip(steps)
}

/// No access.
pub(super) const NO: Sizes = Sizes {
    min: 0,
    max: 0,
    at_start: false,
};

pub(super) const fn sized(min: u8, max: u8) -> Sizes {
    Sizes {
        min,
        max,
        at_start: false,
    }
}

pub(super) const fn at_start(min: u8, max: u8) -> Sizes {
    Sizes {
        min,
        max,
        at_start: true,
    }
}

pub(super) const fn field(name: &'static str, offset: u32, len: u32, read: Sizes) -> CtxField {
    CtxField {
        name,
        offset,
        len,
        read,
        write: NO,
        reg: CtxReg::Scalar,
        attach: AttachSet::ANY,
        need_bpf: false,
        narrow: None,
        load: &[],
        load_aliased: None,
        store: &[],
        with_tstamp_type: None,
    }
}

impl Place {
    pub(super) const fn each(self) -> Place {
        Place {
            indexed: true,
            ..self
        }
    }
}

impl CtxField {
    /// A field of a host application's context, which is memory as it stands: loads and stores of these sizes in it are left as they are.
    /// `write` with a smallest size of 0 makes it read-only.
    pub const fn plain(
        name: &'static str,
        offset: u32,
        len: u32,
        read: Sizes,
        write: Sizes,
        reg: CtxReg,
    ) -> CtxField {
        CtxField {
            write,
            reg,
            ..field(name, offset, len, read)
        }
    }

    pub(super) const fn stored(self, write: Sizes, store: &'static [Step]) -> CtxField {
        CtxField {
            write,
            store,
            ..self
        }
    }

    pub(super) const fn yields(self, reg: CtxReg) -> CtxField {
        CtxField { reg, ..self }
    }

    pub(super) const fn loaded(self, load: &'static [Step]) -> CtxField {
        CtxField { load, ..self }
    }

    pub(super) const fn aliased(self, steps: &'static [Step]) -> CtxField {
        CtxField {
            load_aliased: Some(steps),
            ..self
        }
    }

    pub(super) const fn narrow(self, narrow: Narrow) -> CtxField {
        CtxField {
            narrow: Some(narrow),
            ..self
        }
    }

    pub(super) const fn only(self, attach: &[AttachType]) -> CtxField {
        CtxField {
            attach: AttachSet::of(attach),
            ..self
        }
    }

    pub(super) const fn bpf(self) -> CtxField {
        CtxField {
            need_bpf: true,
            ..self
        }
    }

    pub(super) const fn with_tstamp_type(
        self,
        load: &'static [Step],
        store: &'static [Step],
    ) -> CtxField {
        CtxField {
            with_tstamp_type: Some((load, store)),
            ..self
        }
    }
}
