//! Kinds of special fields: names, sizes, alignments, one row each; and sets of them.

macro_rules! field_kinds {
    ($($name:ident = $mask:literal, $text:literal, $size:literal, $align:literal;)*) => {
        /// A kind of special field.
        ///
        /// # Source
        /// `enum btf_field_type`, sizes and alignments of the types in linux/bpf.h, Linux 6.18.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum FieldKind {
            $(#[doc = concat!("`", $text, "`")] $name = $mask,)*
        }

        impl FieldKind {
            /// Every kind.
            pub const ALL: &'static [FieldKind] = &[$(FieldKind::$name),*];

            /// The type's name, or the type tag of a pointer.
            pub const fn name(self) -> &'static str {
                match self { $(FieldKind::$name => $text,)* }
            }

            /// Bytes of a field.
            pub const fn size(self) -> u32 {
                match self { $(FieldKind::$name => $size,)* }
            }

            /// Alignment; a field elsewhere is no special field.
            pub const fn align(self) -> u32 {
                match self { $(FieldKind::$name => $align,)* }
            }
        }
    };
}

field_kinds! {
    SpinLock = 0x1, "bpf_spin_lock", 4, 4;
    Timer = 0x2, "bpf_timer", 16, 8;
    KptrUnref = 0x4, "kptr_untrusted", 8, 8;
    KptrRef = 0x8, "kptr", 8, 8;
    KptrPercpu = 0x10, "percpu_kptr", 8, 8;
    ListHead = 0x20, "bpf_list_head", 16, 8;
    ListNode = 0x40, "bpf_list_node", 24, 8;
    RbRoot = 0x80, "bpf_rb_root", 16, 8;
    RbNode = 0x100, "bpf_rb_node", 32, 8;
    Refcount = 0x200, "bpf_refcount", 4, 4;
    Workqueue = 0x400, "bpf_wq", 16, 8;
    Uptr = 0x800, "uptr", 8, 8;
    ResSpinLock = 0x1000, "bpf_res_spin_lock", 4, 4;
    TaskWork = 0x2000, "bpf_task_work", 8, 8;
}

impl FieldKind {
    /// A pointer stored in a map value.
    pub const fn is_pointer(self) -> bool {
        matches!(
            self,
            FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu | FieldKind::Uptr
        )
    }

    /// A list head or tree root: it owns objects.
    pub const fn is_graph_root(self) -> bool {
        matches!(self, FieldKind::ListHead | FieldKind::RbRoot)
    }

    /// A list or tree node: it can be owned.
    pub const fn is_graph_node(self) -> bool {
        matches!(self, FieldKind::ListNode | FieldKind::RbNode)
    }

    /// At most one of these per struct.
    pub(super) const fn is_unique(self) -> bool {
        matches!(
            self,
            FieldKind::SpinLock
                | FieldKind::ResSpinLock
                | FieldKind::Timer
                | FieldKind::Workqueue
                | FieldKind::TaskWork
        )
    }

    /// May stand in an array, or in a struct that does.
    pub(super) const fn is_repeatable(self) -> bool {
        self.is_pointer() || self.is_graph_root()
    }
}

/// A set of [`FieldKind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldMask(pub u32);

impl FieldMask {
    /// What map values may hold.
    pub const MAP_VALUE: FieldMask =
        FieldMask(0x1 | 0x1000 | 0x2 | 0x1c | 0x20 | 0x80 | 0x200 | 0x400 | 0x800 | 0x2000);
    /// What objects that a program allocates may hold.
    pub const ALLOC_OBJ: FieldMask =
        FieldMask(0x1 | 0x1000 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x1c);

    /// Does the set hold this kind?
    pub const fn has(self, kind: FieldKind) -> bool {
        self.0 & kind as u32 != 0
    }

    pub(super) fn insert(&mut self, kind: FieldKind) {
        self.0 |= kind as u32;
    }
}
