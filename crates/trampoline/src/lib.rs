//! Trampolines: fentry, fexit, fmod_ret and freplace images and live patching.

