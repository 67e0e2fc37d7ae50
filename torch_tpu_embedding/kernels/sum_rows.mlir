"builtin.module"() <{sym_name = "kernel"}> ({
  "stable_mosaic.func.func"() ({
  ^bb0(%arg5: i32, %arg6: memref<1024xi32, #tpu.memory_space<smem>>, %arg7: memref<1024xi32, #tpu.memory_space<smem>>, %arg8: memref<1024xf32, #tpu.memory_space<smem>>, %arg9: memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, %arg10: memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>):
    %9 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %10 = "stable_mosaic.arith.cmpi"(%arg5, %9) {predicate = 0 : i64} : (i32, i32) -> i1
    %11 = "stable_mosaic.arith.constant"() {value = ${tiles} : i32} : () -> i32
    %12 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %13 = "stable_mosaic.arith.select"(%10, %11, %12) : (i1, i32, i32) -> i32
    %14 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %15 = "stable_mosaic.arith.subi"(%13, %14) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %16 = "stable_mosaic.arith.addi"(%14, %15) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %17 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
    "stable_mosaic.scf.for"(%14, %16, %17) ({
    ^bb0(%arg13: i32):
      %243 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %244 = "stable_mosaic.arith.muli"(%arg13, %243) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %245 = "stable_mosaic.tpu.assume_multiple"(%244) {multiple = 8 : i32} : (i32) -> i32
      %246 = "stable_mosaic.arith.constant"() {value = 0.000000e+00 : f32} : () -> f32
      %247 = "stable_mosaic.vector.broadcast"(%246) : (f32) -> vector<8x${dim}xf32>
      %248 = "stable_mosaic.arith.index_cast"(%245) : (i32) -> index
      %249 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
      %250 = "stable_mosaic.vector.load"(%arg10, %248, %249) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<8x${dim}xf32>
      "stable_mosaic.tpu.vector_store"(%247, %arg10, %248, %249) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<8x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i32, i32, i32) -> ()
    %18 = "stable_mosaic.arith.constant"() {value = 1024 : i32} : () -> i32
    %19 = "stable_mosaic.arith.muli"(%arg5, %18) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %20 = "stable_mosaic.arith.constant"() {value = ${lookups} : i32} : () -> i32
    %21 = "stable_mosaic.arith.subi"(%20, %19) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %22 = "stable_mosaic.arith.constant"() {value = 1024 : i32} : () -> i32
    %23 = "stable_mosaic.arith.cmpi"(%21, %22) {predicate = 5 : i64} : (i32, i32) -> i1
    %24 = "stable_mosaic.arith.extui"(%23) : (i1) -> i32
    %25 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %26 = "stable_mosaic.arith.cmpi"(%24, %25) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%26) ({
      %54 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %55 = "stable_mosaic.arith.constant"() {value = 128 : i32} : () -> i32
      %56 = "stable_mosaic.arith.addi"(%54, %55) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %57 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      "stable_mosaic.scf.for"(%54, %56, %57) ({
      ^bb0(%arg12: i32):
        %59 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %60 = "stable_mosaic.arith.muli"(%arg12, %59) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %61 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %62 = "stable_mosaic.arith.addi"(%60, %61) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %63 = "stable_mosaic.arith.index_cast"(%62) : (i32) -> index
        %64 = "stable_mosaic.memref.load"(%arg7, %63) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %65 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %66 = "stable_mosaic.arith.addi"(%62, %65) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %67 = "stable_mosaic.arith.index_cast"(%66) : (i32) -> index
        %68 = "stable_mosaic.memref.load"(%arg7, %67) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %69 = "stable_mosaic.arith.index_cast"(%62) : (i32) -> index
        %70 = "stable_mosaic.memref.load"(%arg6, %69) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %71 = "stable_mosaic.arith.index_cast"(%70) : (i32) -> index
        %72 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %73 = "stable_mosaic.vector.load"(%arg9, %71, %72) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %74 = "stable_mosaic.arith.index_cast"(%62) : (i32) -> index
        %75 = "stable_mosaic.memref.load"(%arg8, %74) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %76 = "stable_mosaic.vector.broadcast"(%75) : (f32) -> vector<1x${dim}xf32>
        %77 = "stable_mosaic.arith.mulf"(%73, %76) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %78 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %79 = "stable_mosaic.arith.addi"(%62, %78) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %80 = "stable_mosaic.arith.index_cast"(%79) : (i32) -> index
        %81 = "stable_mosaic.memref.load"(%arg6, %80) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %82 = "stable_mosaic.arith.index_cast"(%81) : (i32) -> index
        %83 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %84 = "stable_mosaic.vector.load"(%arg9, %82, %83) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %85 = "stable_mosaic.arith.index_cast"(%79) : (i32) -> index
        %86 = "stable_mosaic.memref.load"(%arg8, %85) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %87 = "stable_mosaic.vector.broadcast"(%86) : (f32) -> vector<1x${dim}xf32>
        %88 = "stable_mosaic.arith.mulf"(%84, %87) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %89 = "stable_mosaic.arith.index_cast"(%64) : (i32) -> index
        %90 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %91 = "stable_mosaic.vector.load"(%arg10, %89, %90) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %92 = "stable_mosaic.arith.index_cast"(%68) : (i32) -> index
        %93 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %94 = "stable_mosaic.vector.load"(%arg10, %92, %93) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %95 = "stable_mosaic.arith.addf"(%91, %77) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %96 = "stable_mosaic.arith.index_cast"(%64) : (i32) -> index
        %97 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %98 = "stable_mosaic.vector.load"(%arg10, %96, %97) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%95, %arg10, %96, %97) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %99 = "stable_mosaic.arith.cmpi"(%64, %68) {predicate = 0 : i64} : (i32, i32) -> i1
        %100 = "stable_mosaic.arith.select"(%99, %95, %94) : (i1, vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %101 = "stable_mosaic.arith.addf"(%100, %88) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %102 = "stable_mosaic.arith.index_cast"(%68) : (i32) -> index
        %103 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %104 = "stable_mosaic.vector.load"(%arg10, %102, %103) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%101, %arg10, %102, %103) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %105 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %106 = "stable_mosaic.arith.muli"(%arg12, %105) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %107 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
        %108 = "stable_mosaic.arith.addi"(%106, %107) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %109 = "stable_mosaic.arith.index_cast"(%108) : (i32) -> index
        %110 = "stable_mosaic.memref.load"(%arg7, %109) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %111 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %112 = "stable_mosaic.arith.addi"(%108, %111) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %113 = "stable_mosaic.arith.index_cast"(%112) : (i32) -> index
        %114 = "stable_mosaic.memref.load"(%arg7, %113) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %115 = "stable_mosaic.arith.index_cast"(%108) : (i32) -> index
        %116 = "stable_mosaic.memref.load"(%arg6, %115) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %117 = "stable_mosaic.arith.index_cast"(%116) : (i32) -> index
        %118 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %119 = "stable_mosaic.vector.load"(%arg9, %117, %118) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %120 = "stable_mosaic.arith.index_cast"(%108) : (i32) -> index
        %121 = "stable_mosaic.memref.load"(%arg8, %120) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %122 = "stable_mosaic.vector.broadcast"(%121) : (f32) -> vector<1x${dim}xf32>
        %123 = "stable_mosaic.arith.mulf"(%119, %122) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %124 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %125 = "stable_mosaic.arith.addi"(%108, %124) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %126 = "stable_mosaic.arith.index_cast"(%125) : (i32) -> index
        %127 = "stable_mosaic.memref.load"(%arg6, %126) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %128 = "stable_mosaic.arith.index_cast"(%127) : (i32) -> index
        %129 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %130 = "stable_mosaic.vector.load"(%arg9, %128, %129) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %131 = "stable_mosaic.arith.index_cast"(%125) : (i32) -> index
        %132 = "stable_mosaic.memref.load"(%arg8, %131) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %133 = "stable_mosaic.vector.broadcast"(%132) : (f32) -> vector<1x${dim}xf32>
        %134 = "stable_mosaic.arith.mulf"(%130, %133) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %135 = "stable_mosaic.arith.index_cast"(%110) : (i32) -> index
        %136 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %137 = "stable_mosaic.vector.load"(%arg10, %135, %136) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %138 = "stable_mosaic.arith.index_cast"(%114) : (i32) -> index
        %139 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %140 = "stable_mosaic.vector.load"(%arg10, %138, %139) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %141 = "stable_mosaic.arith.addf"(%137, %123) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %142 = "stable_mosaic.arith.index_cast"(%110) : (i32) -> index
        %143 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %144 = "stable_mosaic.vector.load"(%arg10, %142, %143) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%141, %arg10, %142, %143) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %145 = "stable_mosaic.arith.cmpi"(%110, %114) {predicate = 0 : i64} : (i32, i32) -> i1
        %146 = "stable_mosaic.arith.select"(%145, %141, %140) : (i1, vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %147 = "stable_mosaic.arith.addf"(%146, %134) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %148 = "stable_mosaic.arith.index_cast"(%114) : (i32) -> index
        %149 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %150 = "stable_mosaic.vector.load"(%arg10, %148, %149) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%147, %arg10, %148, %149) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %151 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %152 = "stable_mosaic.arith.muli"(%arg12, %151) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %153 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
        %154 = "stable_mosaic.arith.addi"(%152, %153) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %155 = "stable_mosaic.arith.index_cast"(%154) : (i32) -> index
        %156 = "stable_mosaic.memref.load"(%arg7, %155) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %157 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %158 = "stable_mosaic.arith.addi"(%154, %157) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %159 = "stable_mosaic.arith.index_cast"(%158) : (i32) -> index
        %160 = "stable_mosaic.memref.load"(%arg7, %159) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %161 = "stable_mosaic.arith.index_cast"(%154) : (i32) -> index
        %162 = "stable_mosaic.memref.load"(%arg6, %161) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %163 = "stable_mosaic.arith.index_cast"(%162) : (i32) -> index
        %164 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %165 = "stable_mosaic.vector.load"(%arg9, %163, %164) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %166 = "stable_mosaic.arith.index_cast"(%154) : (i32) -> index
        %167 = "stable_mosaic.memref.load"(%arg8, %166) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %168 = "stable_mosaic.vector.broadcast"(%167) : (f32) -> vector<1x${dim}xf32>
        %169 = "stable_mosaic.arith.mulf"(%165, %168) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %170 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %171 = "stable_mosaic.arith.addi"(%154, %170) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %172 = "stable_mosaic.arith.index_cast"(%171) : (i32) -> index
        %173 = "stable_mosaic.memref.load"(%arg6, %172) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %174 = "stable_mosaic.arith.index_cast"(%173) : (i32) -> index
        %175 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %176 = "stable_mosaic.vector.load"(%arg9, %174, %175) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %177 = "stable_mosaic.arith.index_cast"(%171) : (i32) -> index
        %178 = "stable_mosaic.memref.load"(%arg8, %177) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %179 = "stable_mosaic.vector.broadcast"(%178) : (f32) -> vector<1x${dim}xf32>
        %180 = "stable_mosaic.arith.mulf"(%176, %179) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %181 = "stable_mosaic.arith.index_cast"(%156) : (i32) -> index
        %182 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %183 = "stable_mosaic.vector.load"(%arg10, %181, %182) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %184 = "stable_mosaic.arith.index_cast"(%160) : (i32) -> index
        %185 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %186 = "stable_mosaic.vector.load"(%arg10, %184, %185) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %187 = "stable_mosaic.arith.addf"(%183, %169) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %188 = "stable_mosaic.arith.index_cast"(%156) : (i32) -> index
        %189 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %190 = "stable_mosaic.vector.load"(%arg10, %188, %189) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%187, %arg10, %188, %189) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %191 = "stable_mosaic.arith.cmpi"(%156, %160) {predicate = 0 : i64} : (i32, i32) -> i1
        %192 = "stable_mosaic.arith.select"(%191, %187, %186) : (i1, vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %193 = "stable_mosaic.arith.addf"(%192, %180) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %194 = "stable_mosaic.arith.index_cast"(%160) : (i32) -> index
        %195 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %196 = "stable_mosaic.vector.load"(%arg10, %194, %195) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%193, %arg10, %194, %195) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %197 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
        %198 = "stable_mosaic.arith.muli"(%arg12, %197) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %199 = "stable_mosaic.arith.constant"() {value = 6 : i32} : () -> i32
        %200 = "stable_mosaic.arith.addi"(%198, %199) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %201 = "stable_mosaic.arith.index_cast"(%200) : (i32) -> index
        %202 = "stable_mosaic.memref.load"(%arg7, %201) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %203 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %204 = "stable_mosaic.arith.addi"(%200, %203) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %205 = "stable_mosaic.arith.index_cast"(%204) : (i32) -> index
        %206 = "stable_mosaic.memref.load"(%arg7, %205) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %207 = "stable_mosaic.arith.index_cast"(%200) : (i32) -> index
        %208 = "stable_mosaic.memref.load"(%arg6, %207) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %209 = "stable_mosaic.arith.index_cast"(%208) : (i32) -> index
        %210 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %211 = "stable_mosaic.vector.load"(%arg9, %209, %210) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %212 = "stable_mosaic.arith.index_cast"(%200) : (i32) -> index
        %213 = "stable_mosaic.memref.load"(%arg8, %212) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %214 = "stable_mosaic.vector.broadcast"(%213) : (f32) -> vector<1x${dim}xf32>
        %215 = "stable_mosaic.arith.mulf"(%211, %214) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %216 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
        %217 = "stable_mosaic.arith.addi"(%200, %216) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
        %218 = "stable_mosaic.arith.index_cast"(%217) : (i32) -> index
        %219 = "stable_mosaic.memref.load"(%arg6, %218) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %220 = "stable_mosaic.arith.index_cast"(%219) : (i32) -> index
        %221 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %222 = "stable_mosaic.vector.load"(%arg9, %220, %221) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %223 = "stable_mosaic.arith.index_cast"(%217) : (i32) -> index
        %224 = "stable_mosaic.memref.load"(%arg8, %223) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %225 = "stable_mosaic.vector.broadcast"(%224) : (f32) -> vector<1x${dim}xf32>
        %226 = "stable_mosaic.arith.mulf"(%222, %225) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %227 = "stable_mosaic.arith.index_cast"(%202) : (i32) -> index
        %228 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %229 = "stable_mosaic.vector.load"(%arg10, %227, %228) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %230 = "stable_mosaic.arith.index_cast"(%206) : (i32) -> index
        %231 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %232 = "stable_mosaic.vector.load"(%arg10, %230, %231) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %233 = "stable_mosaic.arith.addf"(%229, %215) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %234 = "stable_mosaic.arith.index_cast"(%202) : (i32) -> index
        %235 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %236 = "stable_mosaic.vector.load"(%arg10, %234, %235) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%233, %arg10, %234, %235) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        %237 = "stable_mosaic.arith.cmpi"(%202, %206) {predicate = 0 : i64} : (i32, i32) -> i1
        %238 = "stable_mosaic.arith.select"(%237, %233, %232) : (i1, vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %239 = "stable_mosaic.arith.addf"(%238, %226) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %240 = "stable_mosaic.arith.index_cast"(%206) : (i32) -> index
        %241 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %242 = "stable_mosaic.vector.load"(%arg10, %240, %241) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%239, %arg10, %240, %241) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i32, i32, i32) -> ()
      %58 = "stable_mosaic.arith.constant"() {value = 128 : i32} : () -> i32
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %27 = "stable_mosaic.arith.constant"() {value = 1024 : i32} : () -> i32
    %28 = "stable_mosaic.arith.cmpi"(%21, %27) {predicate = 2 : i64} : (i32, i32) -> i1
    %29 = "stable_mosaic.arith.extui"(%28) : (i1) -> i32
    %30 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %31 = "stable_mosaic.arith.cmpi"(%29, %30) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%31) ({
      %32 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %33 = "stable_mosaic.arith.subi"(%21, %32) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %34 = "stable_mosaic.arith.addi"(%32, %33) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %35 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      "stable_mosaic.scf.for"(%32, %34, %35) ({
      ^bb0(%arg11: i32):
        %36 = "stable_mosaic.arith.index_cast"(%arg11) : (i32) -> index
        %37 = "stable_mosaic.memref.load"(%arg7, %36) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %38 = "stable_mosaic.arith.index_cast"(%37) : (i32) -> index
        %39 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %40 = "stable_mosaic.vector.load"(%arg10, %38, %39) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %41 = "stable_mosaic.arith.index_cast"(%arg11) : (i32) -> index
        %42 = "stable_mosaic.memref.load"(%arg6, %41) : (memref<1024xi32, #tpu.memory_space<smem>>, index) -> i32
        %43 = "stable_mosaic.arith.index_cast"(%42) : (i32) -> index
        %44 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %45 = "stable_mosaic.vector.load"(%arg9, %43, %44) : (memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        %46 = "stable_mosaic.arith.index_cast"(%arg11) : (i32) -> index
        %47 = "stable_mosaic.memref.load"(%arg8, %46) : (memref<1024xf32, #tpu.memory_space<smem>>, index) -> f32
        %48 = "stable_mosaic.vector.broadcast"(%47) : (f32) -> vector<1x${dim}xf32>
        %49 = "stable_mosaic.arith.mulf"(%45, %48) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %50 = "stable_mosaic.arith.addf"(%40, %49) {fastmath = #arith.fastmath<none>} : (vector<1x${dim}xf32>, vector<1x${dim}xf32>) -> vector<1x${dim}xf32>
        %51 = "stable_mosaic.arith.index_cast"(%37) : (i32) -> index
        %52 = "stable_mosaic.arith.constant"() {value = 0 : index} : () -> index
        %53 = "stable_mosaic.vector.load"(%arg10, %51, %52) : (memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> vector<1x${dim}xf32>
        "stable_mosaic.tpu.vector_store"(%50, %arg10, %51, %52) {add = false, operandSegmentSizes = array<i32: 1, 1, 2, 0>, strides = array<i32>} : (vector<1x${dim}xf32>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>, index, index) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i32, i32, i32) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    "stable_mosaic.func.return"() : () -> ()
  }) {dimension_semantics = [#tpu.dimension_semantics<arbitrary>], function_type = (i32, memref<1024xi32, #tpu.memory_space<smem>>, memref<1024xi32, #tpu.memory_space<smem>>, memref<1024xf32, #tpu.memory_space<smem>>, memref<${rows}x${dim}xf32, #tpu.memory_space<vmem>>, memref<${segments}x${dim}xf32, #tpu.memory_space<vmem>>) -> (), iteration_bounds = array<i64: ${blocks}>, scalar_prefetch = 0 : i64, scratch_operands = 0 : i64, sym_name = "main", window_params = [{transform_indices = @transform_0, window_bounds = array<i64: 1024>}, {transform_indices = @transform_1, window_bounds = array<i64: 1024>}, {transform_indices = @transform_2, window_bounds = array<i64: 1024>}, {pipeline_mode = #tpu.pipeline_mode<synchronous>, transform_indices = @transform_3, window_bounds = array<i64: ${rows}, ${dim}>}, {pipeline_mode = #tpu.pipeline_mode<synchronous>, transform_indices = @transform_4, window_bounds = array<i64: ${segments}, ${dim}>}]} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg4: i32):
    %8 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg4) : (i32) -> ()
  }) {function_type = (i32) -> i32, sym_name = "transform_0"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg3: i32):
    %7 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg3) : (i32) -> ()
  }) {function_type = (i32) -> i32, sym_name = "transform_1"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg2: i32):
    %6 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg2) : (i32) -> ()
  }) {function_type = (i32) -> i32, sym_name = "transform_2"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg1: i32):
    %3 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %4 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %5 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%3, %4) : (i32, i32) -> ()
  }) {function_type = (i32) -> (i32, i32), sym_name = "transform_3"} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg0: i32):
    %0 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %1 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %2 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%0, %1) : (i32, i32) -> ()
  }) {function_type = (i32) -> (i32, i32), sym_name = "transform_4"} : () -> ()
}) {stable_mosaic.version = 7 : i64} : () -> ()
