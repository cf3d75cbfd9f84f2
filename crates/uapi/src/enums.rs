//! The macro behind every UAPI enumeration: number, C name and short name in one row.

/// Declares a `#[repr(u32)]` enumeration whose rows are `Variant = value, "C_NAME", "short name";`.
#[macro_export]
#[doc(hidden)]
macro_rules! uapi_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident = $value:literal, $c_name:literal, $short:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name {
            $(#[doc = concat!("`", $c_name, "`")] $variant = $value,)*
        }

        impl $name {
            /// Every value, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The value with this number, if the reference kernel knows it.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The number used in the ABI.
            pub const fn raw(self) -> u32 {
                self as u32
            }

            /// The name in linux/bpf.h.
            pub const fn c_name(self) -> &'static str {
                match self {
                    $(Self::$variant => $c_name,)*
                }
            }

            /// The short lower-case name that tools print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $short,)*
                }
            }

            /// The value with this short name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
