	.text
	.file	"pure.c"
	.globl	native_empty                    # -- Begin function native_empty
	.p2align	4, 0x90
	.type	native_empty,@function
native_empty:                           # @native_empty
# %bb.0:
	xorl	%eax, %eax
	retq
.Lfunc_end0:
	.size	native_empty, .Lfunc_end0-native_empty
                                        # -- End function
	.globl	native_alu_hash                 # -- Begin function native_alu_hash
	.p2align	4, 0x90
	.type	native_alu_hash,@function
native_alu_hash:                        # @native_alu_hash
# %bb.0:
	movq	(%rdi), %rcx
	leaq	1500(%rcx), %rdx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rdx
	ja	.LBB1_4
# %bb.1:
	movabsq	$-7046029254386353131, %rax     # imm = 0x9E3779B97F4A7C15
	movq	(%rcx), %rcx
	addq	%rax, %rcx
	xorl	%esi, %esi
	movabsq	$-4658895280553007687, %rdi     # imm = 0xBF58476D1CE4E5B9
	movabsq	$-7723592293110705685, %r8      # imm = 0x94D049BB133111EB
	xorl	%edx, %edx
	.p2align	4, 0x90
.LBB1_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	movq	%rcx, %r9
	shrq	$30, %r9
	xorq	%rcx, %r9
	imulq	%rdi, %r9
	movq	%r9, %r10
	shrq	$27, %r10
	xorq	%r9, %r10
	imulq	%r8, %r10
	movq	%r10, %r9
	shrq	$31, %r9
	xorq	%r10, %r9
	addq	%r9, %rdx
	incl	%esi
	addq	%rax, %rcx
	cmpl	$500, %esi                      # imm = 0x1F4
	jb	.LBB1_2
# %bb.3:
	movq	%rdx, %rax
	shrq	$32, %rax
	xorl	%edx, %eax
.LBB1_4:
                                        # kill: def $eax killed $eax killed $rax
	retq
.Lfunc_end1:
	.size	native_alu_hash, .Lfunc_end1-native_alu_hash
                                        # -- End function
	.globl	native_murmur32                 # -- Begin function native_murmur32
	.p2align	4, 0x90
	.type	native_murmur32,@function
native_murmur32:                        # @native_murmur32
# %bb.0:
	movq	(%rdi), %rcx
	leaq	1500(%rcx), %rdx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rdx
	ja	.LBB2_5
# %bb.1:
	movl	$42, %eax
	xorl	%edx, %edx
	.p2align	4, 0x90
.LBB2_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	cmpl	$1023, %edx                     # imm = 0x3FF
	ja	.LBB2_4
# %bb.3:                                #   in Loop: Header=BB2_2 Depth=1
	movl	%edx, %esi
	movl	(%rcx,%rsi), %esi
	imull	$-862048943, %esi, %edi         # imm = 0xCC9E2D51
	imull	$380141568, %esi, %esi          # imm = 0x16A88000
	shrl	$17, %edi
	orl	%esi, %edi
	imull	$461845907, %edi, %esi          # imm = 0x1B873593
	xorl	%eax, %esi
	roll	$13, %esi
	leal	(%rsi,%rsi,4), %eax
	addl	$-430675100, %eax               # imm = 0xE6546B64
	leal	4(%rdx), %esi
	cmpl	$1020, %edx                     # imm = 0x3FC
	movl	%esi, %edx
	jb	.LBB2_2
.LBB2_4:
	movl	%eax, %ecx
	shrl	$16, %ecx
	xorl	%eax, %ecx
	xorl	$1024, %ecx                     # imm = 0x400
	imull	$-2048144789, %ecx, %eax        # imm = 0x85EBCA6B
	movl	%eax, %ecx
	shrl	$13, %ecx
	xorl	%eax, %ecx
	imull	$-1028477387, %ecx, %ecx        # imm = 0xC2B2AE35
	movl	%ecx, %eax
	shrl	$16, %eax
	xorl	%ecx, %eax
.LBB2_5:
	retq
.Lfunc_end2:
	.size	native_murmur32, .Lfunc_end2-native_murmur32
                                        # -- End function
	.globl	native_muldiv                   # -- Begin function native_muldiv
	.p2align	4, 0x90
	.type	native_muldiv,@function
native_muldiv:                          # @native_muldiv
# %bb.0:
	movq	(%rdi), %r9
	leaq	1500(%r9), %rax
	xorl	%ecx, %ecx
	cmpq	8(%rdi), %rax
	ja	.LBB3_9
# %bb.1:
	pushq	%r14
	pushq	%rbx
	movabsq	$2361183241434822607, %r10      # imm = 0x20C49BA5E353F7CF
	xorl	%r11d, %r11d
	jmp	.LBB3_2
	.p2align	4, 0x90
.LBB3_6:                                #   in Loop: Header=BB3_2 Depth=1
	movq	%rsi, %rax
	xorl	%edx, %edx
	divq	%rbx
	movq	%rax, %r8
.LBB3_7:                                #   in Loop: Header=BB3_2 Depth=1
	movq	%rsi, %rax
	shrq	$3, %rax
	mulq	%r10
	shrq	$4, %rdx
	imulq	$1000, %rdx, %rax               # imm = 0x3E8
	movq	%rsi, %r14
	subq	%rax, %r14
	addq	%r11, %r14
	addq	%r8, %r14
	addl	$6, %ebx
	movl	%edi, %eax
	xorl	%edx, %edx
	divl	%ebx
                                        # kill: def $eax killed $eax def $rax
	xorq	%r14, %rax
	imulq	$10007, %rax, %rax              # imm = 0x2717
	movl	%esi, %edx
	imulq	$613566757, %rdx, %rdx          # imm = 0x24924925
	shrq	$32, %rdx
	subl	%edx, %esi
	shrl	%esi
	addl	%edx, %esi
	shrl	$2, %esi
	addq	%rax, %rsi
	leal	8(%rcx), %eax
	movq	%rsi, %r11
	cmpl	$1016, %ecx                     # imm = 0x3F8
	movl	%eax, %ecx
	jae	.LBB3_8
.LBB3_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	cmpl	$1023, %ecx                     # imm = 0x3FF
	ja	.LBB3_3
# %bb.4:                                #   in Loop: Header=BB3_2 Depth=1
	movl	%ecx, %eax
	movq	(%r9,%rax), %rsi
	movl	%esi, %eax
	orb	$1, %al
	movzbl	%al, %ebx
	movq	%rsi, %rdi
	shrq	$32, %rdi
	jne	.LBB3_6
# %bb.5:                                #   in Loop: Header=BB3_2 Depth=1
	movl	%esi, %eax
	xorl	%edx, %edx
	divl	%ebx
	movl	%eax, %r8d
	jmp	.LBB3_7
.LBB3_3:
	movq	%r11, %rsi
.LBB3_8:
	movq	%rsi, %rcx
	shrq	$32, %rcx
	xorl	%esi, %ecx
	popq	%rbx
	popq	%r14
.LBB3_9:
	movl	%ecx, %eax
	retq
.Lfunc_end3:
	.size	native_muldiv, .Lfunc_end3-native_muldiv
                                        # -- End function
	.globl	native_csum1500                 # -- Begin function native_csum1500
	.p2align	4, 0x90
	.type	native_csum1500,@function
native_csum1500:                        # @native_csum1500
# %bb.0:
	movq	(%rdi), %rcx
	leaq	1500(%rcx), %rdx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rdx
	ja	.LBB4_5
# %bb.1:
	xorl	%edx, %edx
	xorl	%eax, %eax
	.p2align	4, 0x90
.LBB4_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	cmpl	$1499, %edx                     # imm = 0x5DB
	ja	.LBB4_4
# %bb.3:                                #   in Loop: Header=BB4_2 Depth=1
	movl	%edx, %esi
	movl	(%rcx,%rsi), %esi
	addq	%rsi, %rax
	leal	4(%rdx), %esi
	cmpl	$1496, %edx                     # imm = 0x5D8
	movl	%esi, %edx
	jb	.LBB4_2
.LBB4_4:
	movl	%eax, %ecx
	shrq	$32, %rax
	addq	%rcx, %rax
	movzwl	%ax, %ecx
	shrq	$16, %rax
	addl	%ecx, %eax
	movzwl	%ax, %ecx
	shrl	$16, %eax
	addl	%ecx, %eax
	movl	%eax, %ecx
	shrl	$16, %ecx
	addl	%eax, %ecx
	notl	%ecx
	movzwl	%cx, %eax
.LBB4_5:
	retq
.Lfunc_end4:
	.size	native_csum1500, .Lfunc_end4-native_csum1500
                                        # -- End function
	.globl	native_headers                  # -- Begin function native_headers
	.p2align	4, 0x90
	.type	native_headers,@function
native_headers:                         # @native_headers
# %bb.0:
	movq	(%rdi), %rcx
	leaq	1500(%rcx), %rax
	cmpq	8(%rdi), %rax
	jbe	.LBB5_3
.LBB5_1:
	xorl	%eax, %eax
.LBB5_2:
	retq
.LBB5_3:
	xorl	%eax, %eax
	xorl	%esi, %esi
	jmp	.LBB5_4
	.p2align	4, 0x90
.LBB5_9:                                #   in Loop: Header=BB5_4 Depth=1
	movzwl	%r8w, %esi
	movl	%eax, %r8d
	shll	$5, %r8d
	subl	%eax, %r8d
	addl	%esi, %r8d
	movl	%r8d, %eax
.LBB5_17:                               #   in Loop: Header=BB5_4 Depth=1
	leal	64(%rdx), %esi
	cmpl	$1216, %edx                     # imm = 0x4C0
	jae	.LBB5_2
.LBB5_4:                                # =>This Inner Loop Header: Depth=1
	movl	%esi, %edx
	#APP
	#NO_APP
	cmpl	$1279, %edx                     # imm = 0x4FF
	ja	.LBB5_2
# %bb.5:                                #   in Loop: Header=BB5_4 Depth=1
	movl	%edx, %r8d
	leaq	(%rcx,%r8), %rsi
	movzwl	12(%rcx,%r8), %r8d
	cmpl	$129, %r8d
	jne	.LBB5_6
# %bb.7:                                #   in Loop: Header=BB5_4 Depth=1
	movzwl	16(%rsi), %r8d
	movl	$18, %r9d
	cmpw	$8, %r8w
	jne	.LBB5_9
	jmp	.LBB5_10
	.p2align	4, 0x90
.LBB5_6:                                #   in Loop: Header=BB5_4 Depth=1
	movl	$14, %r9d
	cmpw	$8, %r8w
	jne	.LBB5_9
.LBB5_10:                               #   in Loop: Header=BB5_4 Depth=1
	movzbl	(%rsi,%r9), %r8d
	shll	$2, %r8d
	andl	$60, %r8d
	leal	-41(%r8), %r10d
	cmpb	$-22, %r10b
	ja	.LBB5_12
# %bb.11:                               #   in Loop: Header=BB5_4 Depth=1
	incl	%eax
	jmp	.LBB5_17
	.p2align	4, 0x90
.LBB5_12:                               #   in Loop: Header=BB5_4 Depth=1
	addq	%r9, %rsi
	movzbl	9(%rsi), %r9d
	cmpl	$17, %r9d
	je	.LBB5_14
# %bb.13:                               #   in Loop: Header=BB5_4 Depth=1
	xorl	%r10d, %r10d
	cmpl	$6, %r9d
	jne	.LBB5_16
.LBB5_14:                               #   in Loop: Header=BB5_4 Depth=1
	leaq	(%rsi,%r8), %r10
	addq	$4, %r10
	cmpq	8(%rdi), %r10
	ja	.LBB5_1
# %bb.15:                               #   in Loop: Header=BB5_4 Depth=1
	addq	%rsi, %r8
	movl	(%r8), %r10d
	bswapl	%r10d
.LBB5_16:                               #   in Loop: Header=BB5_4 Depth=1
	roll	$5, %eax
	xorl	%r10d, %eax
	xorl	%r9d, %eax
	xorl	12(%rsi), %eax
	xorl	16(%rsi), %eax
	jmp	.LBB5_17
.Lfunc_end5:
	.size	native_headers, .Lfunc_end5-native_headers
                                        # -- End function
	.globl	native_bytes                    # -- Begin function native_bytes
	.p2align	4, 0x90
	.type	native_bytes,@function
native_bytes:                           # @native_bytes
# %bb.0:
	movq	(%rdi), %rdx
	leaq	1500(%rdx), %rcx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rcx
	ja	.LBB6_13
# %bb.1:
	xorl	%r10d, %r10d
	movl	$2, %edi
	xorl	%r9d, %r9d
	xorl	%ecx, %ecx
	xorl	%eax, %eax
	xorl	%esi, %esi
	jmp	.LBB6_2
	.p2align	4, 0x90
.LBB6_4:                                #   in Loop: Header=BB6_2 Depth=1
	incl	%ecx
	xorl	%r9d, %r9d
	cmpb	$34, %r11b
	setne	%r9b
	leaq	(%r9,%r9,2), %r9
.LBB6_11:                               #   in Loop: Header=BB6_2 Depth=1
	leal	1(%r8), %r10d
	cmpl	$1023, %r8d                     # imm = 0x3FF
	je	.LBB6_12
.LBB6_2:                                # =>This Inner Loop Header: Depth=1
	movl	%r10d, %r8d
	#APP
	#NO_APP
	movq	%r9, %r10
	#APP
	#NO_APP
	cmpl	$1023, %r8d                     # imm = 0x3FF
	ja	.LBB6_12
# %bb.3:                                #   in Loop: Header=BB6_2 Depth=1
	movl	%r8d, %r9d
	movzbl	(%rdx,%r9), %r11d
	cmpq	$3, %r10
	je	.LBB6_4
# %bb.5:                                #   in Loop: Header=BB6_2 Depth=1
	movl	$3, %r9d
	cmpb	$34, %r11b
	je	.LBB6_11
# %bb.6:                                #   in Loop: Header=BB6_2 Depth=1
	leal	-48(%r11), %r9d
	cmpb	$9, %r9b
	ja	.LBB6_8
# %bb.7:                                #   in Loop: Header=BB6_2 Depth=1
	xorl	%r9d, %r9d
	testq	%r10, %r10
	sete	%r9b
	cmoveq	%rdi, %r10
	addl	%r9d, %eax
	movq	%r10, %r9
	jmp	.LBB6_11
.LBB6_8:                                #   in Loop: Header=BB6_2 Depth=1
	orb	$32, %r11b
	addb	$-97, %r11b
	cmpb	$25, %r11b
	ja	.LBB6_9
# %bb.10:                               #   in Loop: Header=BB6_2 Depth=1
	xorl	%r9d, %r9d
	cmpq	$1, %r10
	setne	%r9b
	addl	%r9d, %esi
	movl	$1, %r9d
	jmp	.LBB6_11
.LBB6_9:                                #   in Loop: Header=BB6_2 Depth=1
	xorl	%r9d, %r9d
	jmp	.LBB6_11
.LBB6_12:
	shll	$20, %esi
	shll	$10, %eax
	xorl	%esi, %eax
	xorl	%ecx, %eax
.LBB6_13:
	retq
.Lfunc_end6:
	.size	native_bytes, .Lfunc_end6-native_bytes
                                        # -- End function
	.globl	native_calls3000                # -- Begin function native_calls3000
	.p2align	4, 0x90
	.type	native_calls3000,@function
native_calls3000:                       # @native_calls3000
# %bb.0:
	movq	(%rdi), %rax
	leaq	1500(%rax), %rdx
	xorl	%ecx, %ecx
	cmpq	8(%rdi), %rdx
	ja	.LBB7_4
# %bb.1:
	pushq	%rbx
	movq	(%rax), %rax
	xorl	%ebx, %ebx
	.p2align	4, 0x90
.LBB7_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	movl	%ebx, %esi
	movq	%rax, %rdi
	callq	step
	incl	%ebx
	cmpl	$3000, %ebx                     # imm = 0xBB8
	jb	.LBB7_2
# %bb.3:
	movq	%rax, %rcx
	shrq	$32, %rcx
	xorl	%eax, %ecx
	popq	%rbx
.LBB7_4:
	movl	%ecx, %eax
	retq
.Lfunc_end7:
	.size	native_calls3000, .Lfunc_end7-native_calls3000
                                        # -- End function
	.p2align	4, 0x90                         # -- Begin function step
	.type	step,@function
step:                                   # @step
# %bb.0:
	#APP
	#NO_APP
	xorq	%rsi, %rdi
	movabsq	$1099511628211, %rax            # imm = 0x100000001B3
	imulq	%rdi, %rax
	retq
.Lfunc_end8:
	.size	step, .Lfunc_end8-step
                                        # -- End function
	.globl	native_siphash                  # -- Begin function native_siphash
	.p2align	4, 0x90
	.type	native_siphash,@function
native_siphash:                         # @native_siphash
# %bb.0:
	movq	(%rdi), %r8
	leaq	1500(%r8), %rcx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rcx
	ja	.LBB9_5
# %bb.1:
	movabsq	$8388350548712186997, %rsi      # imm = 0x7469686173716475
	movabsq	$7737605742629119589, %rcx      # imm = 0x6B617F6D656E6665
	movabsq	$7746018054687388513, %rax      # imm = 0x6B7F62616D677361
	movabsq	$8893317812261383291, %rdx      # imm = 0x7B6B696E727E6C7B
	xorl	%edi, %edi
	.p2align	4, 0x90
.LBB9_2:                                # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	cmpl	$1023, %edi                     # imm = 0x3FF
	ja	.LBB9_4
# %bb.3:                                #   in Loop: Header=BB9_2 Depth=1
	movl	%edi, %r9d
	addq	%rcx, %rsi
	rolq	$13, %rcx
	movq	(%r8,%r9), %r9
	xorq	%rsi, %rcx
	rolq	$32, %rsi
	xorq	%r9, %rdx
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rax, %rdx
	addq	%rdx, %rsi
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rax, %rcx
	rolq	$32, %rax
	xorq	%rsi, %rdx
	addq	%rcx, %rsi
	rolq	$13, %rcx
	xorq	%rsi, %rcx
	rolq	$32, %rsi
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rax, %rdx
	addq	%rdx, %rsi
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rsi, %rdx
	xorq	%rax, %rcx
	rolq	$32, %rax
	xorq	%r9, %rsi
	leal	8(%rdi), %r9d
	cmpl	$1016, %edi                     # imm = 0x3F8
	movl	%r9d, %edi
	jb	.LBB9_2
.LBB9_4:
	addq	%rcx, %rsi
	rolq	$13, %rcx
	xorq	%rsi, %rcx
	rolq	$32, %rsi
	xorq	$255, %rax
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rax, %rdx
	addq	%rdx, %rsi
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rax, %rcx
	rolq	$32, %rax
	xorq	%rsi, %rdx
	addq	%rcx, %rsi
	rolq	$13, %rcx
	xorq	%rsi, %rcx
	rolq	$32, %rsi
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rax, %rdx
	addq	%rdx, %rsi
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rax, %rcx
	rolq	$32, %rax
	xorq	%rsi, %rdx
	addq	%rcx, %rsi
	rolq	$13, %rcx
	xorq	%rsi, %rcx
	rolq	$32, %rsi
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rax, %rdx
	addq	%rdx, %rsi
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rax, %rcx
	rolq	$32, %rax
	xorq	%rsi, %rdx
	addq	%rcx, %rsi
	rolq	$13, %rcx
	addq	%rdx, %rax
	rolq	$16, %rdx
	xorq	%rsi, %rcx
	xorq	%rax, %rdx
	rolq	$21, %rdx
	addq	%rcx, %rax
	rolq	$17, %rcx
	xorq	%rdx, %rcx
	movq	%rax, %rdx
	rolq	$32, %rdx
	xorq	%rcx, %rdx
	xorq	%rax, %rdx
	movq	%rdx, %rax
	shrq	$32, %rax
	xorl	%edx, %eax
.LBB9_5:
                                        # kill: def $eax killed $eax killed $rax
	retq
.Lfunc_end9:
	.size	native_siphash, .Lfunc_end9-native_siphash
                                        # -- End function
	.globl	native_jhash                    # -- Begin function native_jhash
	.p2align	4, 0x90
	.type	native_jhash,@function
native_jhash:                           # @native_jhash
# %bb.0:
	movq	(%rdi), %rdx
	leaq	1500(%rdx), %rcx
	xorl	%eax, %eax
	cmpq	8(%rdi), %rcx
	ja	.LBB10_5
# %bb.1:
	movl	$-559038737, %ecx               # imm = 0xDEADBEEF
	xorl	%edi, %edi
	movl	$-559038737, %eax               # imm = 0xDEADBEEF
	movl	$-559038737, %esi               # imm = 0xDEADBEEF
	.p2align	4, 0x90
.LBB10_2:                               # =>This Inner Loop Header: Depth=1
	#APP
	#NO_APP
	cmpl	$1019, %edi                     # imm = 0x3FB
	ja	.LBB10_4
# %bb.3:                                #   in Loop: Header=BB10_2 Depth=1
	movl	%edi, %r8d
	addl	(%rdx,%r8), %esi
	addl	4(%rdx,%r8), %eax
	addl	8(%rdx,%r8), %ecx
	movl	%ecx, %r8d
	roll	$4, %r8d
	subl	%ecx, %esi
	xorl	%esi, %r8d
	addl	%eax, %ecx
	subl	%r8d, %eax
	movl	%r8d, %r9d
	roll	$6, %r9d
	xorl	%eax, %r9d
	addl	%ecx, %r8d
	movl	%r9d, %r10d
	roll	$8, %r10d
	subl	%r9d, %ecx
	xorl	%ecx, %r10d
	addl	%r8d, %r9d
	subl	%r10d, %r8d
	movl	%r10d, %esi
	roll	$16, %esi
	xorl	%r8d, %esi
	addl	%r9d, %r10d
	movl	%esi, %eax
	roll	$19, %eax
	subl	%esi, %r9d
	xorl	%r9d, %eax
	addl	%r10d, %esi
	subl	%eax, %r10d
	movl	%eax, %ecx
	roll	$4, %ecx
	xorl	%r10d, %ecx
	addl	%esi, %eax
	leal	12(%rdi), %r8d
	cmpl	$1008, %edi                     # imm = 0x3F0
	movl	%r8d, %edi
	jb	.LBB10_2
.LBB10_4:
	xorl	%eax, %ecx
	movl	%eax, %edx
	roll	$14, %edx
	subl	%edx, %ecx
	movl	%ecx, %edx
	roll	$11, %edx
	xorl	%ecx, %esi
	subl	%edx, %esi
	xorl	%esi, %eax
	xorl	%esi, %ecx
	roll	$25, %esi
	subl	%esi, %eax
	xorl	%ecx, %eax
.LBB10_5:
	retq
.Lfunc_end10:
	.size	native_jhash, .Lfunc_end10-native_jhash
                                        # -- End function
	.section	".note.GNU-stack","",@progbits
