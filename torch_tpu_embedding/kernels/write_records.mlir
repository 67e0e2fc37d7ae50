"builtin.module"() <{sym_name = "kernel"}> ({
  "stable_mosaic.func.func"() ({
  ^bb0(%arg4: i32, %arg5: memref<1xi32, #tpu.memory_space<smem>>, %arg6: memref<1024xi32, #tpu.memory_space<smem>>, %arg7: memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, %arg8: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg9: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg10: memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>):
    %3 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %4 = "stable_mosaic.arith.constant"() {value = ${chunks} : i32} : () -> i32
    %5 = "stable_mosaic.arith.addi"(%3, %4) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %6 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
    "stable_mosaic.scf.for"(%3, %5, %6) ({
    ^bb0(%arg11: i32):
      %8 = "stable_mosaic.arith.constant"() {value = ${chunk} : i32} : () -> i32
      %9 = "stable_mosaic.arith.muli"(%arg11, %8) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %10 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
      %11 = "stable_mosaic.memref.load"(%arg5, %10) : (memref<1xi32, #tpu.memory_space<smem>>, index) -> i32
      %12 = "stable_mosaic.arith.constant"() {value = 1024 : i32} : () -> i32
      %13 = "stable_mosaic.arith.muli"(%arg4, %12) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %14 = "stable_mosaic.arith.subi"(%11, %13) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %15 = "stable_mosaic.arith.subi"(%14, %9) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %16 = "stable_mosaic.arith.constant"() {value = ${chunk} : i32} : () -> i32
      %17 = "stable_mosaic.arith.cmpi"(%15, %16) {predicate = 5 : i64} : (i32, i32) -> i1
      %18 = "stable_mosaic.arith.extui"(%17) : (i1) -> i32
      %19 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %20 = "stable_mosaic.arith.cmpi"(%18, %19) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%20) ({
        %55 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %56 = "stable_mosaic.arith.constant"() {value = ${trips} : i32} : () -> i32
        %57 = "stable_mosaic.arith.addi"(%55, %56) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %58 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        "stable_mosaic.scf.for"(%55, %57, %58) ({
        ^bb0(%arg14: i32):
          %66 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %67 = "stable_mosaic.arith.muli"(%arg14, %66) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %68 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %69 = "stable_mosaic.arith.addi"(%67, %68) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %70 = "stable_mosaic.arith.addi"(%9, %69) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %71 = "stable_mosaic.arith.index_cast"(%70) : (i32) -> index
          %72 = "stable_mosaic.memref.load"(%arg6, %71) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %73 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %74 = "stable_mosaic.arith.muli"(%72, %73) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %75 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %76 = "stable_mosaic.arith.muli"(%70, %75) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %77 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %78 = "stable_mosaic.tpu.memref_slice"(%arg7, %76, %77) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %79 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %80 = "stable_mosaic.tpu.memref_slice"(%arg9, %74, %79) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%78, %80, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %81 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %82 = "stable_mosaic.arith.muli"(%arg14, %81) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %83 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
          %84 = "stable_mosaic.arith.addi"(%82, %83) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %85 = "stable_mosaic.arith.addi"(%9, %84) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %86 = "stable_mosaic.arith.index_cast"(%85) : (i32) -> index
          %87 = "stable_mosaic.memref.load"(%arg6, %86) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %88 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %89 = "stable_mosaic.arith.muli"(%87, %88) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %90 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %91 = "stable_mosaic.arith.muli"(%85, %90) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %92 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %93 = "stable_mosaic.tpu.memref_slice"(%arg7, %91, %92) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %94 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %95 = "stable_mosaic.tpu.memref_slice"(%arg9, %89, %94) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%93, %95, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %96 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %97 = "stable_mosaic.arith.muli"(%arg14, %96) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %98 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
          %99 = "stable_mosaic.arith.addi"(%97, %98) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %100 = "stable_mosaic.arith.addi"(%9, %99) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %101 = "stable_mosaic.arith.index_cast"(%100) : (i32) -> index
          %102 = "stable_mosaic.memref.load"(%arg6, %101) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %103 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %104 = "stable_mosaic.arith.muli"(%102, %103) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %105 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %106 = "stable_mosaic.arith.muli"(%100, %105) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %107 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %108 = "stable_mosaic.tpu.memref_slice"(%arg7, %106, %107) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %109 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %110 = "stable_mosaic.tpu.memref_slice"(%arg9, %104, %109) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%108, %110, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %111 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %112 = "stable_mosaic.arith.muli"(%arg14, %111) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %113 = "stable_mosaic.arith.constant"() {value = 3 : i32} : () -> i32
          %114 = "stable_mosaic.arith.addi"(%112, %113) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %115 = "stable_mosaic.arith.addi"(%9, %114) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %116 = "stable_mosaic.arith.index_cast"(%115) : (i32) -> index
          %117 = "stable_mosaic.memref.load"(%arg6, %116) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %118 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %119 = "stable_mosaic.arith.muli"(%117, %118) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %120 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %121 = "stable_mosaic.arith.muli"(%115, %120) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %122 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %123 = "stable_mosaic.tpu.memref_slice"(%arg7, %121, %122) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %124 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %125 = "stable_mosaic.tpu.memref_slice"(%arg9, %119, %124) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%123, %125, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %126 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %127 = "stable_mosaic.arith.muli"(%arg14, %126) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %128 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
          %129 = "stable_mosaic.arith.addi"(%127, %128) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %130 = "stable_mosaic.arith.addi"(%9, %129) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %131 = "stable_mosaic.arith.index_cast"(%130) : (i32) -> index
          %132 = "stable_mosaic.memref.load"(%arg6, %131) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %133 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %134 = "stable_mosaic.arith.muli"(%132, %133) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %135 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %136 = "stable_mosaic.arith.muli"(%130, %135) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %137 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %138 = "stable_mosaic.tpu.memref_slice"(%arg7, %136, %137) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %139 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %140 = "stable_mosaic.tpu.memref_slice"(%arg9, %134, %139) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%138, %140, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %141 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %142 = "stable_mosaic.arith.muli"(%arg14, %141) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %143 = "stable_mosaic.arith.constant"() {value = 5 : i32} : () -> i32
          %144 = "stable_mosaic.arith.addi"(%142, %143) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %145 = "stable_mosaic.arith.addi"(%9, %144) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %146 = "stable_mosaic.arith.index_cast"(%145) : (i32) -> index
          %147 = "stable_mosaic.memref.load"(%arg6, %146) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %148 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %149 = "stable_mosaic.arith.muli"(%147, %148) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %150 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %151 = "stable_mosaic.arith.muli"(%145, %150) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %152 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %153 = "stable_mosaic.tpu.memref_slice"(%arg7, %151, %152) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %154 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %155 = "stable_mosaic.tpu.memref_slice"(%arg9, %149, %154) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%153, %155, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %156 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %157 = "stable_mosaic.arith.muli"(%arg14, %156) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %158 = "stable_mosaic.arith.constant"() {value = 6 : i32} : () -> i32
          %159 = "stable_mosaic.arith.addi"(%157, %158) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %160 = "stable_mosaic.arith.addi"(%9, %159) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %161 = "stable_mosaic.arith.index_cast"(%160) : (i32) -> index
          %162 = "stable_mosaic.memref.load"(%arg6, %161) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %163 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %164 = "stable_mosaic.arith.muli"(%162, %163) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %165 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %166 = "stable_mosaic.arith.muli"(%160, %165) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %167 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %168 = "stable_mosaic.tpu.memref_slice"(%arg7, %166, %167) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %169 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %170 = "stable_mosaic.tpu.memref_slice"(%arg9, %164, %169) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%168, %170, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          %171 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
          %172 = "stable_mosaic.arith.muli"(%arg14, %171) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %173 = "stable_mosaic.arith.constant"() {value = 7 : i32} : () -> i32
          %174 = "stable_mosaic.arith.addi"(%172, %173) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %175 = "stable_mosaic.arith.addi"(%9, %174) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %176 = "stable_mosaic.arith.index_cast"(%175) : (i32) -> index
          %177 = "stable_mosaic.memref.load"(%arg6, %176) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %178 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %179 = "stable_mosaic.arith.muli"(%177, %178) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %180 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %181 = "stable_mosaic.arith.muli"(%175, %180) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %182 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %183 = "stable_mosaic.tpu.memref_slice"(%arg7, %181, %182) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %184 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %185 = "stable_mosaic.tpu.memref_slice"(%arg9, %179, %184) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%183, %185, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i32, i32, i32) -> ()
        %59 = "stable_mosaic.arith.constant"() {value = ${trips} : i32} : () -> i32
        %60 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %61 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %62 = "stable_mosaic.tpu.memref_slice"(%arg7, %60, %61) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${chunk_rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        %63 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %64 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %65 = "stable_mosaic.tpu.memref_slice"(%arg7, %63, %64) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${chunk_rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
        "stable_mosaic.tpu.wait_dma2"(%arg10, %62, %65) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<${chunk_rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<${chunk_rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %21 = "stable_mosaic.arith.constant"() {value = ${chunk} : i32} : () -> i32
      %22 = "stable_mosaic.arith.cmpi"(%15, %21) {predicate = 2 : i64} : (i32, i32) -> i1
      %23 = "stable_mosaic.arith.extui"(%22) : (i1) -> i32
      %24 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %25 = "stable_mosaic.arith.cmpi"(%23, %24) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%25) ({
        %26 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %27 = "stable_mosaic.arith.maxsi"(%15, %26) : (i32, i32) -> i32
        %28 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %29 = "stable_mosaic.arith.subi"(%27, %28) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %30 = "stable_mosaic.arith.addi"(%28, %29) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %31 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        "stable_mosaic.scf.for"(%28, %30, %31) ({
        ^bb0(%arg13: i32):
          %44 = "stable_mosaic.arith.addi"(%9, %arg13) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %45 = "stable_mosaic.arith.index_cast"(%44) : (i32) -> index
          %46 = "stable_mosaic.memref.load"(%arg6, %45) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
          %47 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %48 = "stable_mosaic.arith.muli"(%46, %47) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %49 = "stable_mosaic.arith.constant"() {value = ${rows} : i32} : () -> i32
          %50 = "stable_mosaic.arith.muli"(%44, %49) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
          %51 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %52 = "stable_mosaic.tpu.memref_slice"(%arg7, %50, %51) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
          %53 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %54 = "stable_mosaic.tpu.memref_slice"(%arg9, %48, %53) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
          "stable_mosaic.tpu.enqueue_dma"(%52, %54, %arg10) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i32, i32, i32) -> ()
        %32 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %33 = "stable_mosaic.arith.maxsi"(%15, %32) : (i32, i32) -> i32
        %34 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %35 = "stable_mosaic.arith.subi"(%33, %34) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %36 = "stable_mosaic.arith.addi"(%34, %35) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %37 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        "stable_mosaic.scf.for"(%34, %36, %37) ({
        ^bb0(%arg12: i32):
          %38 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %39 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %40 = "stable_mosaic.tpu.memref_slice"(%arg7, %38, %39) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
          %41 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %42 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
          %43 = "stable_mosaic.tpu.memref_slice"(%arg7, %41, %42) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<${rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
          "stable_mosaic.tpu.wait_dma2"(%arg10, %40, %43) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<${rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<${rows}x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
          "stable_mosaic.scf.yield"() : () -> ()
        }) : (i32, i32, i32) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i32, i32, i32) -> ()
    %7 = "stable_mosaic.arith.constant"() {value = ${chunks} : i32} : () -> i32
    "stable_mosaic.func.return"() : () -> ()
  }) {dimension_semantics = [#tpu.dimension_semantics<parallel>], function_type = (i32, memref<1xi32, #tpu.memory_space<smem>>, memref<1024xi32, #tpu.memory_space<smem>>, memref<${block_rows}x128xf32, #tpu.memory_space<vmem>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> (), iteration_bounds = array<i64: ${blocks}>, scalar_prefetch = 1 : i64, scratch_operands = 1 : i64, sym_name = "main", window_params = [{transform_indices = @transform_0, window_bounds = array<i64: 1024>}, {transform_indices = @transform_1, window_bounds = array<i64: ${block_rows}, 128>}, {}, {}]} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg2: i32, %arg3: memref<1xi32, #tpu.memory_space<smem>>):
    %2 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg2) : (i32) -> ()
  }) {function_type = (i32, memref<1xi32, #tpu.memory_space<smem>>) -> i32, sym_name = "transform_0"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg0: i32, %arg1: memref<1xi32, #tpu.memory_space<smem>>):
    %0 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %1 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg0, %0) : (i32, i32) -> ()
  }) {function_type = (i32, memref<1xi32, #tpu.memory_space<smem>>) -> (i32, i32), sym_name = "transform_1"} : () -> ()
}) {stable_mosaic.version = 7 : i64} : () -> ()
